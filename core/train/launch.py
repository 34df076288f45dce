"""`core run --devices N`: the processes of one run on this machine, started and watched by the command itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import torch
import torch.distributed as dist

from core.errors import UserError
from core.train.cost import Cost
from core.train.ranks import JOINING, LAUNCHED, LOST, started
from core.train.session import Opened, cost_of

GRACE = 15.0
"""seconds that the other processes have to end by themselves once one has failed"""
TICK = 0.05
SAID = 400
"""characters of a process's last words that are repeated"""


def checked(opened: Opened) -> Cost:
    """The model's cost, after a look whether the strategy can run it as so many processes.

    Raises:
        UserError: the pieces do not fit together, a batch has fewer sets or the machine fewer GPUs than there are to be
            processes, or the strategy refuses the model.
    """
    ranks, sets = opened.ranks, opened.card.sizes.get("sets_per_batch")
    if sets is not None and ranks > sets:
        raise UserError(
            f"--devices {ranks}: a batch has {sets} sets, so some processes would have none; raise "
            f"--data.sets.per_batch to {ranks} or more (as far as the data have sets), or lower --devices"
        )
    if opened.device.type == "cuda" and not started() and ranks > torch.cuda.device_count():
        raise UserError(f"--devices {ranks}: this machine has {torch.cuda.device_count()} GPUs; choose at most as many")
    cost = cost_of(opened)
    if ranks > 1:
        with torch.device("meta"):
            opened.run.strategy.refuse(opened.run.system.build(opened.card), ranks)
    return cost


def launch(ranks: int, words: Sequence[str]) -> int:
    """Run `core WORDS` as so many processes and wait for all; the exit status of the command.

    The first process speaks for all. Where one dies the others are ended, a single sentence says which, and the status
    is 1. Ctrl-C and SIGTERM are passed on.
    """
    store = dist.TCPStore("127.0.0.1", 0, ranks + 1, is_master=True, wait_for_workers=False, timeout=JOINING)
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        LAUNCHED: str(os.getpid()),
    }
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, torch.get_num_threads() // ranks))
    # -P: a folder called `plugins` in the current directory must not be found before ours.
    argv = [sys.executable, "-P", "-m", "core", *words]
    children: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryFile() as told, _passed_on(children):
        try:
            for rank in range(ranks):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": threads}
                quiet: dict[str, Any] = {} if rank == 0 else {"stdout": subprocess.DEVNULL, "stderr": told}
                # A session of its own: a terminal's Ctrl-C is to reach a process once, through this one.
                children.append(
                    subprocess.Popen(argv, env={**os.environ, **shared, **own}, start_new_session=True, **quiet)
                )
            return _watch(children, told)
        finally:
            _end(children)


def _watch(children: list[subprocess.Popen[bytes]], told: IO[bytes]) -> int:
    """Wait for the first process, which speaks for all, or for one that fails; the exit status of the command."""
    while children[0].poll() is None and not _failed(children):
        time.sleep(TICK)
    if not _failed(children):
        _await(children, GRACE)
        return children[0].returncode
    first = _failed(children)
    _await(children, GRACE)  # the others notice by themselves, and the first writes down how the run stands
    if children[0].poll() is not None and children[0].returncode >= 0 and children[0].returncode != LOST:
        return children[0].returncode
    guilty = [rank for rank in first + _failed(children) if children[rank].returncode != LOST]
    if not guilty:
        print("core: the processes of the run lost each other; the same command goes on", file=sys.stderr)
        return 1
    code = children[guilty[0]].returncode
    how = f"by signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"with status {code}: {_last(told)}"
    print(
        f"core: process {guilty[0]} of {len(children)} ended {how}; the others were ended too. The same command goes "
        "on from the newest checkpoint",
        file=sys.stderr,
    )
    return 2 if code == 2 else 1


def _failed(children: list[subprocess.Popen[bytes]]) -> list[int]:
    return [rank for rank, child in enumerate(children) if child.poll() not in (None, 0, 130)]


def _last(told: IO[bytes]) -> str:
    told.seek(0)
    lines = told.read().decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("core: ")[:SAID] if lines else ""


def _await(children: list[subprocess.Popen[bytes]], seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and any(child.poll() is None for child in children):
        time.sleep(TICK)


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    """End what still runs: asked first, then forced."""
    for number, seconds in ((signal.SIGTERM, 2.0), (signal.SIGKILL, GRACE)):
        for child in children:
            if child.poll() is None:
                child.send_signal(number)
        _await(children, seconds)


@contextmanager
def _passed_on(children: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    def ask(number: int, frame: Any) -> None:
        for child in children:
            if child.poll() is None:
                child.send_signal(number)

    kept = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
