"""Jobs in a Slurm cluster, by its command line."""

from instar.jobs.runners.slurm.runner import SlurmRunner

__all__ = ["SlurmRunner"]
