"""Runs as subprocesses of this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import ClassVar, Literal

import attrs

from core.errors import UserError
from core.kinds import Executor, Job, Running
from core.params import knob, params
from core.study.output import open_output

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@params
class Local(Executor):
    """One subprocess a run; each gives its memory back when it ends.

    With several places, cores and GPUs are divided: each run computes with `threads` threads and sees only its own
    GPUs. With one place nothing is set, and a run uses what the machine gives it.
    """

    slots: int | Literal["auto"] = knob(1, "runs at a time; auto: one a GPU, else one for each `threads` cores", ge=1)
    threads: int | None = knob(
        None, "threads a run; none: several runs divide the cores, unless OMP_NUM_THREADS is set", ge=1
    )
    gpus: tuple[int | str, ...] = knob((), "GPUs by number or UUID, divided over the runs; empty: those that are seen")

    def capacity(self) -> int:
        if isinstance(self.slots, int):
            return self.slots
        return len(self.gpus) or max(1, _cores() // (self.threads or 1))

    def start(self, job: Job, output: Path, place: int) -> Running:
        with open_output(output) as out:
            try:
                # A session of its own: Ctrl-C reaches the caller only, and what the run starts can be ended with it.
                process = subprocess.Popen(
                    job.argv,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **self._share(place), **job.env},
                    start_new_session=True,
                )
            except OSError as error:
                raise UserError(f"{job.argv[0]} cannot be started: {error}") from None
        return _Process(job=job, process=process)

    def _share(self, place: int) -> dict[str, str]:
        """The variables by which a run keeps to its part of the machine."""
        count = self.capacity()
        share = {}
        if self.threads is not None or (count > 1 and "OMP_NUM_THREADS" not in os.environ):
            share = dict.fromkeys(_THREADS, str(self.threads or max(1, _cores() // count)))
        if self.gpus:
            mine = self.gpus[place::count] or (self.gpus[place % len(self.gpus)],)
            share["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, mine))
        return share


@attrs.frozen(kw_only=True, eq=False)
class _Process(Running):
    sure: ClassVar[bool] = True

    job: Job
    process: subprocess.Popen

    def poll(self) -> int | None:
        return self.process.poll()

    def terminate(self) -> None:
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        # Asked first, because a process that was collected has given its number away.
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)


def _cores() -> int:
    """Cores that this process may use; a container or a batch system often grants fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
