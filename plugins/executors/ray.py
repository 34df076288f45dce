"""Runs as tasks of a Ray cluster."""

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
class Ray(Executor):
    """One Ray task a run, each in a fresh worker that ends with it; Ray itself repeats nothing.

    What is lost with a worker or a host is found by the trial table, which counts attempts; Ray's own retries would
    count them twice. cellcore must be installed on all nodes, and the study's directory be shared by them.
    """

    address: str = knob("", "address of a running cluster, or auto; empty: start one on this machine")
    slots: int | Literal["auto"] = knob("auto", "tasks at a time; auto: what the cluster's cores and GPUs allow", ge=1)
    cpus: float = knob(1.0, "cores a task", gt=0)
    gpus: float = knob(0.0, "GPUs a task; Ray sets CUDA_VISIBLE_DEVICES", ge=0)

    def capacity(self) -> int:
        if isinstance(self.slots, int):
            return self.slots
        there = self._connected().cluster_resources()
        places = int(there.get("CPU", 0) // self.cpus)
        return min(places, int(there.get("GPU", 0) // self.gpus)) if self.gpus else places

    def start(self, job: Job, output: Path, place: int) -> Running:
        ray = self._connected()
        place_of_output = str(output.absolute())
        task = ray.remote(num_cpus=self.cpus, num_gpus=self.gpus, max_calls=1, max_retries=0)(run_command)
        given = (job.argv, {**inherited(), **job.env}, str(Path.cwd()), place_of_output)
        handle = task.options(name=job.name).remote(*given)
        return _Submitted(job=job, output=place_of_output, ray=ray, handle=handle)

    def _connected(self) -> Any:
        try:
            import ray
        except ModuleNotFoundError:
            raise UserError("executor ray needs ray. Install it with: pip install 'cellcore[ray]'") from None
        if not ray.is_initialized():
            try:
                ray.init(address=self.address or None, log_to_driver=False, runtime_env={"env_vars": inherited()})
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(f"executor ray: no cluster at {self.address or 'this machine'}: {error}") from None
        return ray


@attrs.frozen(kw_only=True, eq=False)
class _Submitted(Running):
    job: Job
    output: str
    ray: Any
    handle: Any

    def poll(self) -> int | None:
        done, _ = self.ray.wait([self.handle], timeout=0)
        if not done:
            return None
        try:
            return self.ray.get(self.handle)
        except self.ray.exceptions.RayError:  # the worker or its host is gone: no status is left
            return _KILLED

    def terminate(self) -> None:
        if self.poll() is None:
            request(self.output, "terminate")

    def kill(self) -> None:
        if self.poll() is None:
            request(self.output, "kill")
            self.ray.cancel(self.handle, recursive=False)  # where it still waits in the queue
