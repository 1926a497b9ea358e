"""A batch script for Slurm. What a site calls its cards, partitions and accounts only the site knows."""

import shlex
from hashlib import sha256

from planner.configs.written import REQUIREMENTS, Chosen, File, Written, comments
from planner.jobs.needs import Needs, as_command, exports, needs_of, reasons, run_name, setup_lines

FILE = "job.slurm"

VARIABLES = (("MAIN_IP", '$(scontrol show hostnames "$SLURM_JOB_NODELIST" | sed -n 1p)'),)
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
        *comments(["", *reasons(chosen, needs, "where all machines see it")]),
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
    """An environment in the folder, which has to lie where all machines see it.

    Its mark is made last and is named by what was installed: what failed on the way, or was another, is made anew.
    """
    lines = setup_lines(written)
    wanted = "\n".join([*lines, *(file.text for file in written.files if file.name == REQUIREMENTS)])
    mark = f"venv/ready-{sha256(wanted.encode()).hexdigest()[:8]}"
    return [
        f"if [ ! -e {mark} ]; then",
        "  rm -rf venv",
        "  python3 -m venv venv",
        "  source venv/bin/activate",
        *(f"  {line}" for line in lines),
        f"  touch {mark}",
        "fi",
        "source venv/bin/activate",
    ]


def _launch(written: Written, needs: Needs) -> str:
    """One process on each machine, which starts those of its cards."""
    if needs.nodes == 1:
        return f"srun {as_command(written.launch)}"
    return "srun " + shlex.join(["bash", "-c", f"{RANK}; {written.launch}"])
