"""Runs as subprocesses of this machine."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import attrs

from core.errors import UserError
from core.kinds import Executor, Job, Running
from core.params import knob, params
from core.study.forks import COMMAND, Forks, available, forks
from core.study.output import open_output

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@params
class Local(Executor):
    """One process a run; each gives its memory back when it ends.

    With `warm` a run is forked off a process that has torch imported already, which saves seconds of each (on Linux).
    With several places, cores and GPUs are divided: each run computes with `threads` threads and sees only its own
    GPUs. With one place nothing is set, and a run uses what the machine gives it.
    """

    slots: int | Literal["auto"] = knob(1, "runs at a time; auto: one a GPU, else one for each `threads` cores", ge=1)
    threads: int | None = knob(
        None, "threads a run; none: several runs divide the cores, unless OMP_NUM_THREADS is set", ge=1
    )
    gpus: tuple[int | str, ...] = knob((), "GPUs by number or UUID, divided over the runs; empty: those that are seen")
    warm: bool = knob(True, "fork runs off a process that has torch imported already; false: each imports it anew")

    def capacity(self) -> int:
        if self.gpus:
            _refuse_absent(self.gpus)
        if isinstance(self.slots, int):
            return self.slots
        return len(self.gpus) or max(1, _cores() // (self.threads or 1))

    def start(self, job: Job, output: Path, place: int) -> Running:
        threads, gpus = self._threads(), self._gpus(place)
        with open_output(output) as out:
            if self.warm and available() and job.argv[: len(COMMAND)] == COMMAND:
                with contextlib.suppress(OSError):  # then it starts as any other command does
                    shared = forks({**os.environ, **threads})
                    env = {**os.environ, **threads, **gpus, **job.env}
                    return _Forked(
                        job=job, forks=shared, number=shared.start(job.argv[len(COMMAND) :], env, out.fileno())
                    )
            try:
                # A session of its own: Ctrl-C reaches the caller only, and what the run starts can be ended with it.
                process = subprocess.Popen(
                    job.argv,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **threads, **gpus, **job.env},
                    start_new_session=True,
                )
            except OSError as error:
                raise UserError(f"{job.argv[0]} cannot be started: {error}") from None
        return _Process(job=job, process=process)

    def _threads(self) -> dict[str, str]:
        """The variables by which a run keeps to its part of the cores."""
        count = self.capacity()
        if self.threads is not None or (count > 1 and "OMP_NUM_THREADS" not in os.environ):
            return dict.fromkeys(_THREADS, str(self.threads or max(1, _cores() // count)))
        return {}

    def _gpus(self, place: int) -> dict[str, str]:
        """The variable by which a run sees its own GPUs only."""
        if not self.gpus:
            return {}
        mine = self.gpus[place :: self.capacity()] or (self.gpus[place % len(self.gpus)],)
        return {"CUDA_VISIBLE_DEVICES": ",".join(map(str, mine))}


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


@attrs.frozen(kw_only=True, eq=False)
class _Forked(Running):
    sure: ClassVar[bool] = True

    job: Job
    forks: Forks
    number: int

    def poll(self) -> int | None:
        return self.forks.poll(self.number)

    def terminate(self) -> None:
        self.forks.send_signal(self.number, signal.SIGTERM)

    def kill(self) -> None:
        self.forks.send_signal(self.number, signal.SIGKILL)


def _refuse_absent(gpus: Sequence[int | str]) -> None:
    """Refuse GPUs that this machine does not have: runs would take the CPU without a word."""
    count = _gpus()
    absent = [gpu for gpu in gpus if count == 0 or (isinstance(gpu, int) and gpu >= count)]
    # Numbers of GPUs that a batch system hides are the machine's, not counted from 0 here.
    if absent and (count == 0 or "CUDA_VISIBLE_DEVICES" not in os.environ):
        raise UserError(
            f"E-NOSLOT: GPU {absent[0]} is not there: this machine shows {count or 'no'} GPU{'s' * (count > 1)}. "
            "Nothing was started; choose others with --gpus, or leave it out to use the CPU"
        )


@functools.cache
def _gpus() -> int:
    """GPUs that CUDA, or HIP, shows to this process; asked of the driver, as torch takes seconds to import."""
    for library, begin, count in (("libcuda.so.1", "cuInit", "cuDeviceGetCount"),
                                  ("libamdhip64.so", "hipInit", "hipGetDeviceCount")):  # fmt: skip
        with contextlib.suppress(OSError, AttributeError):
            driver, found = ctypes.CDLL(library), ctypes.c_int()
            if getattr(driver, begin)(0) == 0 and getattr(driver, count)(ctypes.byref(found)) == 0 and found.value:
                return found.value
    return 0


def _cores() -> int:
    """Cores that this process may use; a container or a batch system often grants fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
