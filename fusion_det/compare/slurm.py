"""Jobs on a Slurm cluster through submitit, behind the same interface as local processes. submitit is optional."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from fusion_det.compare.launch import Command, Handle
from fusion_det.errors import ConfigError, FusionDetError

_FAILED = 1


class SlurmLauncher:
    """Submits every job with submitit's ``AutoExecutor``; ``options`` are its parameters (``slurm_partition``, ``timeout_min``, ...).

    ``cluster``: ``slurm``, or ``local`` and ``debug`` to try it without a cluster. A job that Slurm preempts or times out is put back by
    submitit or fails; started again, it goes on from its last checkpoint. The study's folder must be on a file system that all nodes see.
    """

    def __init__(self, folder: Path, *, cluster: str | None = None, **options: Any) -> None:
        try:
            import submitit
        except ImportError as error:
            raise ConfigError("needs the package submitit", where="launcher=slurm", mend="pip install 'fusion-det[sweep]'") from error
        try:
            self.executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self.executor.update_parameters(**options)
        except (RuntimeError, NameError, TypeError, ValueError) as error:
            raise ConfigError(" ".join(str(error).split())[:200], where="slurm", mend="see submitit's AutoExecutor") from error

    def start(self, command: Command, name: str) -> Handle:
        """Submit ``command``."""
        self.executor.update_parameters(name="".join(letter if letter.isalnum() else "-" for letter in name)[:60])
        variables = {**os.environ, **command.environment}
        variables.pop("CUDA_VISIBLE_DEVICES", None)  # the cluster hands out the GPUs
        try:
            return SlurmHandle(self.executor.submit(run_command, command.words, variables, str(command.log)))
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            raise FusionDetError(f"cannot submit: {error}", where="launcher=slurm", mend="see sbatch on this machine") from error


class SlurmHandle:
    """A submitted job."""

    def __init__(self, job: Any) -> None:
        self.job = job

    def poll(self) -> int | None:
        """See ``Handle``; 1 for a job that never told its code (cancelled, node lost)."""
        if not self.job.done():
            return None
        try:
            return int(self.job.result())
        except Exception:  # submitit raises whatever killed the job, of any class
            return _FAILED

    def stop(self, number: int) -> None:
        """See ``Handle``; Slurm sends SIGTERM, and the run saves itself."""
        if not self.job.done():
            self.job.cancel(check=False)

    def kill(self) -> None:
        """See ``Handle``."""
        self.stop(9)


def run_command(words: tuple[str, ...], environment: dict[str, str], log: str) -> int:
    """What a node does: run the command, and hand SIGTERM on to it; its exit code."""
    import signal

    Path(log).parent.mkdir(parents=True, exist_ok=True)
    with Path(log).open("ab") as output:
        process = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    signal.signal(signal.SIGTERM, lambda number, frame: process.send_signal(number))
    code = process.wait()
    return 128 - code if code < 0 else code
