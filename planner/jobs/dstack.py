"""A task for dstack: dstack 0.22.5 core/models/configurations.py, TaskConfiguration.

Its runner says which machine of several this is: DSTACK_NODE_RANK and DSTACK_MASTER_NODE_IP.
"""

from planner.configs.written import Chosen, File, Written, comments
from planner.jobs.cards import SOLD, known
from planner.jobs.needs import SHARED_GB, Needs, exports, items, needs_of, reasons, run_name, setup_lines

FILE = "task.dstack.yml"
PYTHON = "3.12"

VARIABLES = (("MAIN_IP", "$DSTACK_MASTER_NODE_IP"), ("MACHINE_RANK", "$DSTACK_NODE_RANK"))


def write(chosen: Chosen, written: Written) -> Written:
    """``task.dstack.yml``, which runs the files of ``written``."""
    needs = needs_of(chosen)
    lines = [*comments(reasons(chosen, needs, "beside these files")), "type: task", f"name: {run_name(chosen)}"]
    if needs.nodes > 1:
        lines.append(f"nodes: {needs.nodes}")
    lines += [f'python: "{PYTHON}"', "files:", "  - .  # the folder of these files"]
    lines.append("# env: [HF_TOKEN]  # for models behind a licence")
    lines += ["commands:", *items([*setup_lines(written), *exports(VARIABLES, needs), written.launch])]
    lines += [*_resources(needs), *([] if needs.hours is None else [f"max_duration: {needs.hours}h"])]
    return Written(files=(File(FILE, "\n".join(lines) + "\n"),), configs=(), launch=f"dstack apply -f {FILE}")


def _resources(needs: Needs) -> list[str]:
    sold = [SOLD[one] for one in known(needs.gpu, SOLD, "dstack")]
    names = list(dict.fromkeys(name.upper() for name, _ in sold))
    return [
        "resources:",
        "  gpu:",
        f"    name: [{', '.join(names)}]",
        f"    memory: {min(size for _, size in sold)}GB..",
        f"    count: {needs.gpus}",
        f"  cpu: {needs.cpus}..",
        f"  memory: {needs.memory_gb}GB..",
        f"  disk: {needs.disk_gb}GB..",
        f"  shm_size: {SHARED_GB}GB",
    ]
