"""A task for SkyPilot: skypilot 0.14.1 utils/schemas.py, get_task_schema; skylet/constants.py for the variables."""

from planner.configs.written import Chosen, File, Written, comments
from planner.jobs.cards import SKY, known
from planner.jobs.needs import Needs, as_command, block, exports, needs_of, reasons, run_name, setup_lines

FILE = "task.yaml"

IDLE_MINUTES = 10
"""After which a machine that has nothing to do goes back. Ours."""

STOP = "set -e"
"""SkyPilot's scripts go on behind a command that failed: skylet/log_lib.py, make_task_bash_script."""

VARIABLES = (
    ("MAIN_IP", '$(echo "$SKYPILOT_NODE_IPS" | sed -n 1p)'),
    ("MACHINE_RANK", "$SKYPILOT_NODE_RANK"),
)


def write(chosen: Chosen, written: Written) -> Written:
    """``task.yaml``, which runs the files of ``written``."""
    needs = needs_of(chosen)
    lines = [*comments(reasons(chosen, needs, "beside these files")), f"name: {run_name(chosen)}"]
    if needs.nodes > 1:
        lines.append(f"num_nodes: {needs.nodes}")
    lines += ["workdir: .  # the folder of these files", *_resources(needs)]
    lines.append("# secrets: {HF_TOKEN: null}  # for models behind a licence, with sky launch --secret HF_TOKEN")
    lines += block("setup", [STOP, *setup_lines(written)])
    lines += block("run", [STOP, *exports(VARIABLES, needs), _limited(written.launch, needs)])
    text = "\n".join(lines) + "\n"
    return Written(files=(File(FILE, text),), configs=(), launch=f"sky launch -c {run_name(chosen)} {FILE}")


def _resources(needs: Needs) -> list[str]:
    names = list(dict.fromkeys(SKY[one] for one in known(needs.gpu, SKY, "sky")))
    return [
        "resources:",
        f"  accelerators: {_accelerators(names, needs.gpus)}",
        f"  cpus: {needs.cpus}+",
        f"  memory: {needs.memory_gb}+",
        f"  disk_size: {needs.disk_gb}",
        "  autostop:",
        f"    idle_minutes: {IDLE_MINUTES}",
        "    down: true",
    ]


def _accelerators(names: list[str], count: int) -> str:
    """One card by its name, or any of several.

    >>> _accelerators(["H100"], 8), _accelerators(["L4", "A10G"], 1)
    ('H100:8', '{L4: 1, A10G: 1}')
    """
    if len(names) == 1:
        return f"{names[0]}:{count}"
    return "{" + ", ".join(f"{name}: {count}" for name in names) + "}"


def _limited(launch: str, needs: Needs) -> str:
    return launch if needs.hours is None else f"timeout {needs.hours}h {as_command(launch)}"
