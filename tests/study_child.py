"""The processes of the tests of studies, started with `python -S` so that each costs little.

study_child.py work DIR TRIAL          claim, run and publish one trial; its identity says what it does
study_child.py runner DIR SLOTS ATTEMPTS    share the table as one runner
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import attrs

from core.study.child import work_on
from core.study.job import Job, Running
from core.study.orphans import Limits
from core.study.runner import Runner
from core.study.table import Table

SITE = str(Path(attrs.__file__).parent.parent)
ROOT = str(Path(__file__).resolve().parent.parent)


def command(table: Table, trial: str) -> tuple[str, ...]:
    """The command line of a trial's process."""
    return (sys.executable, "-S", __file__, "work", str(table.root), trial)


def environment() -> dict[str, str]:
    """What a process of `python -S` needs to find the framework and attrs."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([ROOT, SITE])}


@attrs.define(eq=False)
class Started(Running):
    """A process in a session of its own."""

    sure: ClassVar[bool] = True

    job: Job
    process: subprocess.Popen

    def poll(self) -> int | None:
        return self.process.poll()

    def terminate(self) -> None:
        if self.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)

    def kill(self) -> None:
        if self.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)


@attrs.define
class Here:
    """An executor without the kinds, which import torch."""

    slots: int = 2

    def capacity(self) -> int:
        return self.slots

    def start(self, job: Job, output: Path, place: int) -> Running:
        with output.open("ab") as out:
            return Started(
                job,
                subprocess.Popen(
                    job.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env={**environment(), **job.env},
                    start_new_session=True,
                ),
            )


def act(identity: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A trial that does what its identity says."""
    log = os.environ.get("STUDY_LOG")
    if log:
        with open(log, "a") as file:  # noqa: PTH123 - one write in append mode, whole among several writers
            file.write(f"start {folder.parent.name} {folder.name} {os.getpid()}\n")
    what = identity.get("does", "work")
    if what == "raise":
        raise RuntimeError("boom \ud800")
    if what == "exit":
        sys.exit(3)
    if what == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if what == "hang":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("hanging", flush=True)
        while True:
            signal.pause()
    if what == "garbage":
        os.write(1, bytes(range(256)) * 40)
        return "garbage"  # type: ignore[return-value]
    if what == "nan":
        return {"metrics": {"loss": float("nan")}, "measured": {}}
    if what == "flood":
        for _ in range(identity["blocks"]):
            os.write(1, b"x" * 65536)
    if what == "full":
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if what == "spawn":
        subprocess.Popen([sys.executable, "-S", "-c", "import signal; signal.pause()"])
        os.write(1, b"hanging\n")
        signal.pause()
    text = json.dumps(identity, sort_keys=True)
    hashlib.pbkdf2_hmac("sha256", text.encode(), b"some work to be killed in", 40_000)
    return {"metrics": {"loss": int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) / 2**32}, "measured": {}}


def main(words: list[str]) -> int:
    """Do what the command line says."""
    if words[0] == "work":
        return work_on(Table(Path(words[1])), words[2], act)
    table = Table(Path(words[1]), attempts=int(words[3]))
    timeout = float(os.environ["STUDY_TIMEOUT"]) if "STUDY_TIMEOUT" in os.environ else None
    limits = Limits(timeout=timeout, grace=0.2, rescan=0.05)
    return Runner(table, Here(int(words[2])), lambda trial: command(table, trial), limits=limits).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
