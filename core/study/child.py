"""A trial's own process: it claims the trial for itself, so that the claim dies with the work and not with a runner."""

from __future__ import annotations

import contextlib
import math
import os
import resource
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from core.study.owner import BEAT
from core.study.sealed import TableError
from core.study.steps import Claim, Conflict, Taken, claim, end, finish, workdir
from core.study.table import Table

TAKEN = 75
"""exit status of a process that finds its trial taken (EX_TEMPFAIL)"""
TOKEN = "CORE_TRIAL_TOKEN"
"""variable by which a runner knows a claim of its own child again"""
OUTPUT = "CORE_TRIAL_OUTPUT"
"""variable that names the file into which the child's output goes, to be moved to the attempt's folder"""
ATTEMPTS = "CORE_TRIAL_ATTEMPTS"
"""variable by which a runner tells its children how often a trial is tried"""
_TRACE = 8000
"""characters of a traceback's end that are kept"""


def work_on(
    table: Table, trial: str, run: Callable[[dict[str, Any], Path], Mapping[str, Any]], beat: float = BEAT
) -> int:
    """Claim a trial, run it, publish what came of it.

    Args:
        table: the study's trials.
        trial: the id.
        run: `run(identity, folder) -> {"metrics": ..., "measured": ...}`; the folder is the attempt's own. Metrics
            are finite numbers, texts, or lists and tables of them, the same to the last digit whenever this trial is
            run; what was measured (seconds, memory, host) may differ.
        beat: seconds between heartbeats.

    Returns:
        Exit status: 0 done, 1 failed (`failed.K.json` says how) or in conflict with another attempt, 75 taken by
        another, 130 interrupted.

    Raises:
        TableError: the disk.
    """
    # Were a child to count otherwise than its runner, the one would start what the other refuses, for ever.
    table.attempts = int(os.environ.get(ATTEMPTS, table.attempts))
    try:
        mine = claim(table, trial, os.environ.get(TOKEN, ""))
    except Taken as reason:
        print(reason, file=sys.stderr)
        return TAKEN
    with _heartbeat(mine, beat):
        folder = workdir(table, mine)
        _move_output(folder)
        try:
            metrics, measured = _checked(run(table.config(trial)[1], folder))
            finish(table, mine, metrics, {**measured, "peak_memory": peak_memory()})
        except (TableError, Conflict) as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            end(table, trial, mine.attempt, "interrupted", {"message": "interrupted"})
            return 130
        except BaseException as error:  # noqa: BLE001 - whatever a trial raises, sys.exit included, is how it failed
            _say_failed(table, mine, error)
            return 1
    return 0


def peak_memory() -> int:
    """Most bytes of memory that this process has held."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


@contextlib.contextmanager
def _heartbeat(mine: Claim, beat: float) -> Iterator[None]:
    """Touch the claim now and then, for observers on other machines."""
    over = threading.Event()

    def touch() -> None:
        while not over.wait(beat):
            with contextlib.suppress(OSError):  # one beat that is lost on a busy file server does not end a trial
                os.utime(mine.path)

    thread = threading.Thread(target=touch, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _move_output(folder: Path) -> None:
    """What is printed goes on into the same file, which from now on is the attempt's."""
    place = os.environ.get(OUTPUT)
    if place:
        with contextlib.suppress(OSError):
            Path(place).rename(folder / "output.txt")


def _checked(outcome: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    if not isinstance(outcome, Mapping) or {*outcome} != {"metrics", "measured"}:
        raise ValueError(f'a trial returns {{"metrics": ..., "measured": ...}}, got {outcome!r:.200}')
    metrics, measured = dict(outcome["metrics"]), dict(outcome["measured"])
    if not metrics:
        raise ValueError("a trial came to no metric at all")
    for name, value in metrics.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"metric {name} is {value}; a trial that diverged has failed, it is not averaged")
    return metrics, measured


def _say_failed(table: Table, mine: Claim, error: BaseException) -> None:
    trace = "".join(traceback.format_exception(error))
    print(trace, file=sys.stderr)
    facts = {
        "type": type(error).__qualname__,
        "message": _clean(str(error))[:_TRACE],
        "traceback": _clean(trace)[-_TRACE:],
        "peak_memory": peak_memory(),
    }
    end(table, mine.trial, mine.attempt, "failed", facts)


def _clean(text: str) -> str:
    """Text that UTF-8 can hold: half a surrogate pair in a message must not cost the report of the failure."""
    return text.encode(errors="replace").decode()
