"""Several jobs through an executor, each reported as it ends."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from core.study.job import Finished, Job, Running
from core.study.output import end_of

if TYPE_CHECKING:  # the interfaces of core.kinds import torch
    from core.kinds.executor import Executor

_SHORT, _LONG = 0.005, 0.1
GRACE = 30.0
"""seconds between asking a job to end and ending it"""


def run_all(
    executor: Executor,
    jobs: Sequence[Job],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Finished]:
    """Each job's end, as it comes. Closing the iterator stops what still runs, and waits for it.

    Raises:
        UserError: the executor cannot be used here.
    """
    todo = list(reversed(jobs))
    running: dict[int, tuple[Running, Path]] = {}
    pause = _SHORT
    with tempfile.TemporaryDirectory(prefix="core-jobs-") as folder:
        try:
            while todo or running:
                for place in range(executor.capacity()):
                    if todo and place not in running:
                        output = Path(folder) / str(len(todo))
                        running[place] = (executor.start(todo.pop(), output, place), output)
                ended = [(place, job.poll()) for place, (job, _) in running.items()]
                for place, code in ended:
                    if code is not None:
                        job, output = running.pop(place)
                        yield Finished(job=job.job, code=code, output=end_of(output))
                        output.unlink(missing_ok=True)
                        pause = _SHORT
                if running:
                    sleep(pause)
                    pause = min(2 * pause, _LONG)
        finally:
            # Left early (Ctrl-C, or the caller lost interest): let every job write its checkpoint and go.
            stop_all([job for job, _ in running.values()], clock, sleep)


def stop_all(
    jobs: Sequence[Running], clock: Callable[[], float], sleep: Callable[[float], None], grace: float = GRACE
) -> None:
    """Ask all jobs to end, wait, and end those that did not; returns when none is left."""
    for job in jobs:
        job.terminate()
    until = clock() + grace
    left = [job for job in jobs if job.poll() is None]
    killed = False
    while left:
        if clock() >= until and not killed:
            killed = True
            for job in left:
                job.kill()
        sleep(_SHORT)
        left = [job for job in left if job.poll() is None]
