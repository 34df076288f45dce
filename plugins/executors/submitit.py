"""Runs as jobs of a Slurm cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import attrs

from core.errors import UserError
from core.kinds import Executor, Job, Running
from core.params import knob, params
from core.study.remote import inherited, request, run_command

_KILLED = -9


@params
class Submitit(Executor):
    """One Slurm job a run, submitted by submitit; the jobs outlive the process that submitted them.

    The study's directory must be on a file system that all nodes share. Not to be confused with an allocation of many
    nodes for one run: a run has one node here.
    """

    cluster: Literal["auto", "slurm", "local"] = knob("auto", "slurm; local: without a cluster; auto: what is there")
    slots: int = knob(16, "jobs that wait or run at a time", ge=1)
    partition: str = knob("", "Slurm partition; empty: the cluster's own choice")
    time: int = knob(240, "most minutes a job may take", ge=1, unit="min")
    memory: float | None = knob(None, "memory a job; none: the cluster's own choice", gt=0, unit="GB")
    cpus: int = knob(1, "cores a job", ge=1)
    gpus: int = knob(0, "GPUs a job", ge=0)
    folder: str = knob("", "where submitit keeps its files; empty: beside the output of the jobs")

    def capacity(self) -> int:
        return self.slots

    def start(self, job: Job, output: Path, place: int) -> Running:
        submitit = _library()
        folder = Path(self.folder or output.parent / "submitit").absolute()
        wanted: dict[str, Any] = {
            "name": "".join(c if c.isalnum() else "-" for c in job.name),
            "timeout_min": self.time,
            "cpus_per_task": self.cpus,
            "gpus_per_node": self.gpus,
        }
        if self.memory is not None:
            wanted["mem_gb"] = self.memory
        if self.partition:
            wanted["slurm_partition"] = self.partition
        try:
            executor = submitit.AutoExecutor(folder, cluster=None if self.cluster == "auto" else self.cluster)
            executor.update_parameters(**wanted)
            place_of_output = str(output.absolute())
            submitted = executor.submit(
                run_command, job.argv, {**inherited(), **job.env}, str(Path.cwd()), place_of_output
            )
        except (RuntimeError, OSError, submitit.core.utils.FailedJobError) as error:
            raise UserError(f"executor submitit: {job.name} cannot be submitted: {error}") from None
        return _Submitted(job=job, output=place_of_output, submitted=submitted)


@attrs.frozen(kw_only=True, eq=False)
class _Submitted(Running):
    job: Job
    output: str
    submitted: Any

    def poll(self) -> int | None:
        if not self.submitted.done():
            return None
        try:
            return self.submitted.result()
        except Exception:  # noqa: BLE001 - killed, cancelled, timed out, or its file lost: no status is left
            return _KILLED

    def terminate(self) -> None:
        if not self.submitted.done():
            request(self.output, "terminate")

    def kill(self) -> None:
        if not self.submitted.done():
            request(self.output, "kill")
            if self.submitted.state == "PENDING":
                self.submitted.cancel(check=False)


def _library() -> Any:
    try:
        import submitit
    except ModuleNotFoundError:
        raise UserError("executor submitit needs submitit. Install it with: pip install 'cellcore[slurm]'") from None
    return submitit
