"""Requests for machines: what they ask for, in each tool's own words, and what those tools' own schemas say."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from planner.configs.exporting import Exported, export
from planner.configs.targets import TARGETS
from planner.cost import disk_bytes, host_bytes
from planner.errors import UnsupportedScenario
from planner.hardware import list_gpus, load_gpu
from planner.jobs import cards
from planner.jobs.k8s import RESOURCE
from planner.jobs.needs import CPUS_PER_GPU, HOURS_MARGIN, MEMORY_MARGIN, SYSTEM_GB
from planner.recommend.request import Request
from planner.spec import Job, Method

TOOLS = ("sky", "dstack", "slurm", "k8s")
GB = 10**9
MILLION = Job(tokens=20_000_000, sequences=20_000)


@cache
def asked(tool: str, gpu: str = "h100", gpus: int = 1, trainer: str = "torchtune", job: Job = MILLION) -> Exported:
    """An export of a QLoRA run, or of a full one on several machines."""
    method: Method = "full" if gpus > 8 else "qlora"
    return export(tool, Request(model="8b", gpu=gpu, gpus=gpus, methods=(method,), stack="", job=job), trainer=trainer)


def text(found: Exported) -> str:
    """The request itself, which is the last file."""
    return found.files[-1].text


RUNS = (
    ("h100", 1, "torchtune"),
    ("a100-80gb", 4, "torchtune"),
    ("h100", 16, "torchtune"),
    ("24gb", 1, "torchtune"),
    ("4090", 1, "unsloth"),
    ("l40s", 2, "unsloth"),
    ("h100", 1, "trl"),
    ("h100", 16, "trl"),
)


# ---------------------------------------------------------------- what is asked for


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(("gpu", "gpus", "trainer"), RUNS)
def test_the_trainers_files_come_along_and_its_launch_is_run(tool: str, gpu: str, gpus: int, trainer: str) -> None:
    found = asked(tool, gpu, gpus, trainer)
    names = [file.name for file in found.files]
    launches = {
        "torchtune": ("recipe.yaml", "tune run"),
        "unsloth": ("train.py", "train.py"),
        "trl": ("sft.yaml", "trl"),
    }
    config, launch = launches[trainer]

    assert names[0] == config
    assert names[-2] == "requirements.txt"
    assert names[-1] in found.launch
    assert launch in text(found)
    assert text(found).index("pip install -r requirements.txt") < text(found).rindex(launch)
    assert "made by: plan" in text(found)


@pytest.mark.parametrize("tool", TOOLS)
def test_memory_disk_and_time_are_the_plans_with_the_stated_margins(tool: str) -> None:
    found = asked(tool)
    candidate = found.plan.candidates[found.plan.recommendation.candidate or 0]
    memory = host_bytes(candidate.scenario, candidate.estimate)
    disk = disk_bytes(candidate.scenario, candidate.estimate, MILLION)
    assert candidate.cost is not None
    told = [re.search(rf"# {word}: (\d+)", text(found)) for word in ("host memory", "disk", "time")]
    memory_gb, disk_gb, hours = (int(one[1]) for one in told if one)

    assert memory * MEMORY_MARGIN <= memory_gb * GB < memory * MEMORY_MARGIN + GB
    assert disk + SYSTEM_GB * GB <= disk_gb * GB < disk + (SYSTEM_GB + 1) * GB
    assert candidate.cost.high_hours * HOURS_MARGIN <= hours <= candidate.cost.high_hours * HOURS_MARGIN + 1
    assert amounts(tool, text(found)) == (1, 1, CPUS_PER_GPU, memory_gb, disk_gb if tool != "slurm" else None, hours)


def amounts(tool: str, request: str) -> tuple[Any, ...]:
    """Cards, machines, cores, GB of memory and of disk, and hours, as the request has them."""
    if tool == "slurm":
        options = sbatch(request)
        hours = options["time"].partition(":")[0] if "time" in options else None
        return (int(options["gpus-per-node"]), int(options["nodes"]), int(options["cpus-per-task"]),
                int(options["mem"].removesuffix("G")), None, hours and int(hours))  # fmt: skip
    if tool == "sky":
        task = yaml.safe_load(request)
        wanted = task["resources"]
        limit = re.search(r"timeout (\d+)h", task["run"])
        return (int(wanted["accelerators"].partition(":")[2]), task.get("num_nodes", 1), int(wanted["cpus"][:-1]),
                int(wanted["memory"][:-1]), wanted["disk_size"], limit and int(limit[1]))  # fmt: skip
    if tool == "dstack":
        task = yaml.safe_load(request)
        wanted = task["resources"]
        least = {name: int(re.sub(r"\D", "", wanted[name])) for name in ("cpu", "memory", "disk")}
        return (wanted["gpu"]["count"], task.get("nodes", 1), *least.values(), int(task["max_duration"][:-1]))
    *_, job = yaml.safe_load_all(request)
    limits = job["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    memory = int(limits["memory"][:-1]) - 16  # of shared memory, which counts as the container's
    return (int(limits[RESOURCE]), job["spec"].get("completions", 1), int(limits["cpu"]), memory,
            int(limits["ephemeral-storage"][:-1]), job["spec"]["activeDeadlineSeconds"] // 3600)  # fmt: skip


def sbatch(script: str) -> dict[str, str]:
    """The options of a batch script: comments that stand before its first command, each ``--name=value``."""
    found = {}
    for line in script.splitlines()[1:]:
        if not line.startswith("#"):
            break
        if line.startswith("#SBATCH "):
            (word,) = shlex.split(line.removeprefix("#SBATCH "))
            name, _, value = word.removeprefix("--").partition("=")
            assert word.startswith("--"), line
            assert value, line
            found[name] = value
    return found


@pytest.mark.parametrize("tool", TOOLS)
def test_without_data_there_is_no_limit_of_time(tool: str) -> None:
    request = text(asked(tool, job=Job()))

    assert "nobody said how much data there is" in request
    assert not re.search(r"--time=|timeout \d|max_duration: |activeDeadlineSeconds", request)


@pytest.mark.parametrize("tool", TOOLS)
def test_several_machines_know_the_first_and_themselves(tool: str) -> None:
    request = text(asked(tool, "h100", 16))
    launch = request.rindex("tune run --nnodes 2 --rdzv_backend c10d --rdzv_endpoint $MAIN_IP:29500 --nproc_per_node 8")

    for name in ("MAIN_IP", "MACHINE_RANK"):
        assert re.search(rf"(^| |'){name}=\S", request[:launch], re.MULTILINE)
        assert re.search(rf"export .*\b{name}\b", request[:launch])
    assert "MAIN_IP" not in text(asked(tool))
    if tool != "slurm":
        assert amounts(tool, text(asked(tool)))[1] == 1
    else:
        assert sbatch(request)["nodes"] == "2"
        assert sbatch(request)["ntasks-per-node"] == "1"


# ---------------------------------------------------------------- shells


def scripts(tool: str, request: str) -> Iterator[str]:
    """What a shell is given to run."""
    if tool == "slurm":
        yield request
    elif tool == "k8s":
        *_, job = yaml.safe_load_all(request)
        yield job["spec"]["template"]["spec"]["containers"][0]["command"][2]
    else:
        task = yaml.safe_load(request)
        yield from [task["setup"], task["run"]] if tool == "sky" else ["\n".join(task["commands"])]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(("gpu", "gpus", "trainer"), RUNS)
def test_bash_reads_what_is_run(tool: str, gpu: str, gpus: int, trainer: str) -> None:
    for script in scripts(tool, text(asked(tool, gpu, gpus, trainer))):
        done = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="there is no shellcheck")
@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(("gpu", "gpus", "trainer"), RUNS)
def test_shellcheck_has_nothing_to_say(tool: str, gpu: str, gpus: int, trainer: str) -> None:
    for script in scripts(tool, text(asked(tool, gpu, gpus, trainer))):
        done = subprocess.run(
            ["shellcheck", "--shell=bash", "--severity=warning", "-"],
            input=script, text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "")


TOOLS_OF_SLURM = {
    # srun and scontrol are Slurm's: stand-ins run the task twice, as Slurm would on two machines.
    "srun": 'for SLURM_NODEID in 0 1; do export SLURM_NODEID; "$@"; done',
    "scontrol": "echo first-machine; echo second-machine",
    "tune": 'echo "$MACHINE_RANK $*"',
    "python3": "mkdir -p venv/bin; cp pip-that-is-made venv/bin/pip; "
    "echo 'PATH=\"$PWD/venv/bin:$PATH\"' > venv/bin/activate",
    "pip-that-is-made": 'echo "pip $*" >> said; [ ! -e broken ]',
}


def submitted(folder: Path, request: str) -> subprocess.CompletedProcess[str]:
    """A batch script, really run with stand-ins in ``folder``."""
    for name, body in TOOLS_OF_SLURM.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    surroundings = {"PATH": f"{folder}:/usr/bin:/bin", "SLURM_SUBMIT_DIR": str(folder), "SLURM_JOB_NODELIST": "m[1-2]"}
    return subprocess.run(
        ["bash"], input=request, text=True, capture_output=True, check=False, cwd=folder, env=surroundings
    )


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_a_batch_script_starts_each_machine_with_its_own_rank(tmp_path: Path) -> None:
    done = submitted(tmp_path, text(asked("slurm", "h100", 16)))

    assert done.returncode == 0, done.stderr
    runs = [line for line in done.stdout.splitlines() if " run " in line]
    assert [line.split()[0] for line in runs] == ["0", "1"]
    assert all("--rdzv_endpoint first-machine:29500" in line for line in runs)


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_what_did_not_install_is_installed_by_the_next_run(tmp_path: Path) -> None:
    request = text(asked("slurm", "h100", 16))
    (tmp_path / "broken").touch()
    failed = submitted(tmp_path, request)
    assert failed.returncode != 0
    assert " run " not in failed.stdout, "nothing is started without its packages"

    (tmp_path / "broken").unlink()
    assert submitted(tmp_path, request).returncode == 0
    assert (tmp_path / "said").read_text().splitlines() == ["pip install -r requirements.txt"] * 2

    assert submitted(tmp_path, request).returncode == 0
    assert len((tmp_path / "said").read_text().splitlines()) == 2, "what is there is not installed again"

    other = text(asked("slurm", "h100", 16, "trl"))
    submitted(tmp_path, other)
    assert len((tmp_path / "said").read_text().splitlines()) > 2, "another trainer's packages are"


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_skypilots_setup_stops_at_what_fails(tmp_path: Path) -> None:
    (tmp_path / "pip").write_text("#!/bin/bash\nexit 1\n")
    (tmp_path / "pip").chmod(0o755)
    setup = yaml.safe_load(text(asked("sky", trainer="trl")))["setup"] + "\necho went on\n"

    done = subprocess.run(
        ["bash"], input=setup, text=True, capture_output=True, check=False, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}
    )

    assert (done.returncode, done.stdout) == (1, "")


@pytest.mark.parametrize("tool", ["sky", "slurm"])
def test_a_launch_with_variables_is_a_command(tool: str) -> None:
    """Behind ``timeout`` and ``srun`` a variable of the shell's would be the program."""
    request = text(asked(tool, trainer="llamafactory"))

    assert re.search(r"(timeout \d+h|srun) env CUDA_VISIBLE_DEVICES=0 llamafactory-cli train", request)


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize("trainer", ["trl", "accelerate", "deepspeed", "axolotl", "llamafactory"])
def test_deepspeed_on_several_machines_needs_no_hostfile(tool: str, trainer: str) -> None:
    request = Request(
        model="8b", gpu="h100", gpus=16, nodes=2, methods=("full",), stack="",
        settings={"sharding": "zero3", "weights_dtype": "fp32" if trainer == "llamafactory" else "bf16"},
    )  # fmt: skip
    found = export(tool, request, trainer=trainer)
    files = {file.name: file.text for file in found.files}

    assert "hostfile" not in text(found)
    assert "$MAIN_IP" in text(found)
    if trainer in ("trl", "accelerate"):
        assert (
            yaml.safe_load(files["accelerate.yaml"])["deepspeed_config"]["deepspeed_multinode_launcher"] == "standard"
        )
        assert "--machine_rank $MACHINE_RANK --main_process_ip $MAIN_IP" in text(found)


# ---------------------------------------------------------------- cards


def test_names_are_of_cards_that_there_are() -> None:
    ids = {gpu.id for gpu in list_gpus() if not gpu.represents}

    for names in (cards.SKY, cards.PRODUCTS, cards.SOLD):
        assert set(names) <= ids
    assert all(re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?", label)
               for labels in cards.PRODUCTS.values() for label in labels)  # fmt: skip


@pytest.mark.parametrize("names", [cards.SKY, cards.PRODUCTS, cards.SOLD], ids=["sky", "k8s", "dstack"])
def test_a_card_without_a_name_is_refused(names: Any) -> None:
    for gpu in list_gpus():
        found = [one for one in cards.members(gpu) if one in names]
        if found:
            assert cards.known(gpu, names, "tool") == tuple(found)
        else:
            with pytest.raises(UnsupportedScenario, match=f"tool has no name that we know for {gpu.id}"):
                cards.known(gpu, names, "tool")
    assert any(gpu.id not in names for gpu in list_gpus())


def test_a_class_of_cards_is_any_of_its_members() -> None:
    wanted = yaml.safe_load(text(asked("sky", "24gb")))["resources"]["accelerators"]
    assert {"L4", "A10G", "RTX4090"} < set(wanted)
    assert set(wanted.values()) == {1}

    gpu = yaml.safe_load(text(asked("dstack", "24gb")))["resources"]["gpu"]
    assert gpu["memory"] == "24GB.."
    assert {"L4", "A10G", "RTX4090"} < set(gpu["name"])

    *_, job = yaml.safe_load_all(text(asked("k8s", "24gb")))
    affinity = job["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert {"NVIDIA-L4", "NVIDIA-GeForce-RTX-4090"} < set(term["matchExpressions"][0]["values"])


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_that_is_built_for_cuda_is_written_for_amds_cards(target: str) -> None:
    with pytest.raises(UnsupportedScenario, match="cannot express --gpu mi300x: it pins packages built for CUDA"):
        export(target, Request(model="8b", gpu="mi300x", methods=("lora",), stack=""))


def test_a_class_has_members_and_a_card_is_its_own() -> None:
    assert "l4" in cards.members(load_gpu("24gb"))
    assert cards.members(load_gpu("h100")) == ("h100",)


# ---------------------------------------------------------------- the tools' own schemas


@pytest.mark.parametrize(("gpu", "gpus", "trainer"), RUNS)
def test_skypilots_schema_takes_the_task(gpu: str, gpus: int, trainer: str) -> None:
    schemas = pytest.importorskip("sky.utils.schemas", reason="skypilot is not installed")
    jsonschema = pytest.importorskip("jsonschema")
    task = yaml.safe_load(text(asked("sky", gpu, gpus, trainer)))

    jsonschema.validate(task, schemas.get_task_schema())
    jsonschema.validate(task["resources"], schemas.get_resources_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**task, "machines": 2}, schemas.get_task_schema())


@pytest.mark.parametrize(("gpu", "gpus", "trainer"), RUNS)
def test_dstack_parses_the_task(gpu: str, gpus: int, trainer: str) -> None:
    module = pytest.importorskip("dstack._internal.core.models.configurations", reason="dstack is not installed")
    task = module.parse_run_configuration(yaml.safe_load(text(asked("dstack", gpu, gpus, trainer))))

    assert task.type == "task"
    assert task.resources.gpu.count.min == min(gpus, 8)
    assert (task.nodes or 1) == max(gpus // 8, 1)


@pytest.mark.parametrize(("gpu", "gpus", "trainer"), RUNS)
def test_kubernetes_models_have_every_field(gpu: str, gpus: int, trainer: str) -> None:
    client = pytest.importorskip("kubernetes.client", reason="kubernetes is not installed")
    for part in yaml.safe_load_all(text(asked("k8s", gpu, gpus, trainer))):
        getattr(client, f"V1{part['kind']}").model_validate(part)
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        client.V1Job.model_validate({"spec": {"machines": 2, "template": {}}})
