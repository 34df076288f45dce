"""Runs as subprocesses of this machine."""

from __future__ import annotations

import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from core.kinds import Executor, Finished, Job
from core.params import knob, params


@params
class Local(Executor):
    """One subprocess a run; each gives its memory back when it ends."""

    slots: int = knob(1, "runs at a time", ge=1)

    def run(self, jobs: Sequence[Job]) -> Iterator[Finished]:
        alive: set[subprocess.Popen] = set()
        guard = threading.Lock()
        stopping = threading.Event()

        def one(job: Job) -> Finished:
            with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
                with guard:
                    if stopping.is_set():
                        return Finished(job=job, code=130, output="not started")
                    process = subprocess.Popen(
                        job.argv, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
                    )
                    alive.add(process)
                code = process.wait()
                with guard:
                    alive.discard(process)
                output.seek(0)
                return Finished(job=job, code=code, output=output.read()[-20_000:])

        with ThreadPoolExecutor(self.slots) as pool:
            waiting: set[Future[Finished]] = {pool.submit(one, job) for job in jobs}
            try:
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    yield from (future.result() for future in done)
            finally:
                # Left early (Ctrl-C, or the caller lost interest): let every child write its checkpoint and go.
                stopping.set()
                with guard:
                    for process in alive:
                        process.terminate()
