"""A batch script for Slurm. What a site calls its cards, partitions and accounts only the site knows."""

import shlex

from planner.configs.written import Chosen, File, Written, comments
from planner.jobs.needs import Needs, exports, needs_of, reasons, run_name, setup_lines

FILE = "job.slurm"

VARIABLES = (("MAIN_IP", '$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)'),)
"""Of the whole job; the rank of a machine is known in its own task."""

RANK = "export MACHINE_RANK=$SLURM_NODEID"

SITE = (
    "what only your site knows, and may ask for:",
    "#SBATCH --partition=gpu",
    "#SBATCH --account=PROJECT",
)


def write(chosen: Chosen, written: Written) -> Written:
    """``job.slurm``, which runs the files of ``written``."""
    needs = needs_of(chosen)
    lines = [
        "#!/bin/bash",
        *(f"#SBATCH {one}" for one in _options(chosen, needs)),
        *comments(SITE),
        *comments([f"where cards have types: #SBATCH --gpus-per-node={needs.gpu.id}:{needs.gpus}"]),
        *comments(["", *reasons(chosen, needs)]),
        "",
        "set -euo pipefail",
        'cd "$SLURM_SUBMIT_DIR"',
        *_environment(written),
        *exports(VARIABLES, needs),
        _launch(written, needs),
    ]
    return Written(files=(File(FILE, "\n".join(lines) + "\n"),), configs=(), launch=f"sbatch {FILE}")


def _options(chosen: Chosen, needs: Needs) -> list[str]:
    found = [
        f"--job-name={run_name(chosen)}",
        f"--nodes={needs.nodes}",
        "--ntasks-per-node=1",
        f"--gpus-per-node={needs.gpus}",
        f"--cpus-per-task={needs.cpus}",
        f"--mem={needs.memory_gb}G",
        "--output=%x-%j.out",
    ]
    return found if needs.hours is None else [*found, f"--time={needs.hours}:00:00"]


def _environment(written: Written) -> list[str]:
    """An environment in the folder, made by the first run; it has to lie where all machines see it."""
    first, *others = setup_lines(written)
    return [
        "if [ ! -d venv ]; then",
        "  python3 -m venv venv",
        f"  venv/bin/{first}",
        "fi",
        "source venv/bin/activate",
        *others,
    ]


def _launch(written: Written, needs: Needs) -> str:
    """One process on each machine, which starts those of its cards."""
    if needs.nodes == 1:
        return f"srun {written.launch}"
    return "srun " + shlex.join(["bash", "-c", f"{RANK}; {written.launch}"])
