"""A job's command on the machine where an engine (Slurm, Ray) put it; run there without torch or any plugin.

Engines cancel in ways of their own: one sends SIGINT to a controller, one raises in a worker that waits in C. A request
to end is therefore a file beside the output, on the file system that trials share anyway.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from core.study.output import open_output

_SHORT, _LONG = 0.01, 1.0
_REQUESTS = {"terminate": signal.SIGTERM, "kill": signal.SIGKILL}


def inherited() -> dict[str, str]:
    """The caller's variables that a job needs on another machine as well."""
    return {name: value for name, value in os.environ.items() if name.startswith("CORE_") or name == "PYTHONPATH"}


def request(output: str, what: str) -> None:
    """Ask the job that writes to `output` to `terminate`, or `kill` it."""
    temporary = Path(f"{output}.stop.tmp")
    temporary.write_text(what)
    temporary.replace(f"{output}.stop")


def run_command(argv: Sequence[str], env: Mapping[str, str], folder: str, output: str) -> int:
    """Run a command to its end or until `request`; its exit status, negative: the signal that ended it.

    Args:
        argv: the command line.
        env: variables beside those of this process.
        folder: where it runs.
        output: file to which its stdout and stderr are appended.
    """
    asked = Path(f"{output}.stop")
    if asked.exists():
        asked.unlink()
        return -signal.SIGTERM
    with open_output(Path(output)) as out:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
            cwd=folder,
            start_new_session=True,
        )
    pause, sent = _SHORT, ""
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(pause)
            pause = min(2 * pause, _LONG)
            with contextlib.suppress(FileNotFoundError):
                word = asked.read_text()
                if word != sent:
                    sent, pause = word, _SHORT
                    os.killpg(process.pid, _REQUESTS[word])
    finally:
        # Only an exception leaves it at work: the engine ends this process, and the trial is not to outlive its grant.
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        asked.unlink(missing_ok=True)
