"""Asks schedulers and clouds for the machines of a planned run: SkyPilot, dstack, Slurm, Kubernetes.

Each module has ``write(chosen, written)``: a request that runs the files of a trainer. What the run needs of a machine
is worked out once, in ``needs``; what each tool calls a card stands in ``cards``.
"""
