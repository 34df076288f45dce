"""A process that has imported what runs need, and forks one off for each: `python -P -m core.study.forkserver FD ...`.

Importing torch takes seconds, a fork some milliseconds. Nothing is computed here, so that at a fork there is neither a
pool of threads nor a device, and a run ends with all of its memory, as one with an interpreter of its own does. Before
each fork the files of all imported modules are looked at; where one has changed, this process starts itself anew, and
so a run is always of the code that lies on the disk.

Messages are JSON over a socket that keeps their bounds; `core.study.forks` is the other end.

    to here    {"start": JOB, "argv": [...], "env": {...}} with descriptors of its output and its working directory;
               {"signal": JOB, "number": N}, for the job and what it started
    from here  {"job": JOB, "pid": PID, "started": TICKS}; {"job": JOB, "code": STATUS}, a negative one a signal's
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import socket
import sys
import warnings
from pathlib import Path
from typing import Any

import attrs

from core.study.owner import process_start

SIZE = 1 << 17
"""bytes of the longest message; the kernel allows 128 KiB to a variable or an argument alone"""
NO_FORK = 71
"""exit status of a job that could not be forked off (EX_OSERR)"""


def main() -> None:
    """Detach from the caller, import, serve; in a forked process, be the job."""
    _, channel, *preload = sys.argv
    # Nobody's child: whoever asked for this process need not collect it.
    if os.fork():
        os._exit(0)
    os.setsid()
    _be(Server.serve(socket.socket(fileno=int(channel)), preload, {}))


def again(channel: int, preload: list[str], jobs: dict[str, int]) -> None:
    """Go on in place of an older self, whose children are ours."""
    _be(Server.serve(socket.socket(fileno=channel), preload, {int(job): pid for job, pid in jobs.items()}))


@attrs.frozen(kw_only=True)
class Start:
    """What a forked process is to be."""

    argv: list[str]
    env: dict[str, str]
    output: int
    folder: int


@attrs.define(kw_only=True, eq=False)
class Server:
    """The loop: starts, signals and ends of jobs."""

    channel: socket.socket
    preload: list[str]
    stamps: dict[str, tuple[int, int]]
    jobs: dict[int, tuple[int, int]] = attrs.Factory(dict)
    """job -> process and the descriptor that tells of its end"""

    @classmethod
    def serve(cls, channel: socket.socket, preload: list[str], jobs: dict[int, int]) -> Start:
        """Serve until the caller is gone and all jobs have ended; returns in forked processes only."""
        for module in preload:
            # Where a module is broken, the run itself says so better, in its own output.
            with contextlib.suppress(Exception), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importlib.import_module(module)
        server = cls(channel=channel, preload=preload, stamps=_stamps())
        for job, pid in jobs.items():
            server.jobs[job] = (pid, os.pidfd_open(pid))
        gc.collect()
        gc.freeze()  # what all share is not copied by a collection that touches it
        return server.loop()

    def loop(self) -> Start:
        """Handle what comes; the return is a forked process's."""
        heard = True
        while heard or self.jobs:
            ends = {handle: job for job, (_, handle) in self.jobs.items()}
            ready, _, _ = select.select([*ends, *([self.channel.fileno()] if heard else [])], [], [])
            for handle in ready:
                if handle not in ends:
                    self._renew_if_stale()
                    message, descriptors = _receive(self.channel)
                    heard = bool(message)
                    if "start" in message and (mine := self._fork(message, descriptors)):
                        return mine
                    if "signal" in message:
                        self._signal(message["signal"], message["number"])
                else:
                    self._collect(ends[handle])
        os._exit(0)

    def _fork(self, message: dict[str, Any], descriptors: list[int]) -> Start | None:
        job, (output, folder) = message["start"], descriptors
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # threads of a BLAS, which ends them before a fork by itself
                pid = os.fork()
        except OSError as error:
            os.write(output, f"core: no process can be forked off: {error}\n".encode())
            self._say({"job": job, "code": NO_FORK})
            pid = -1
        if pid == 0:
            self.channel.close()
            for _, handle in self.jobs.values():
                os.close(handle)
            return Start(argv=message["argv"], env=message["env"], output=output, folder=folder)
        os.close(output)
        os.close(folder)
        if pid > 0:
            self.jobs[job] = (pid, os.pidfd_open(pid))
            self._say({"job": job, "pid": pid, "started": process_start(pid)})
        return None

    def _signal(self, job: int, number: int) -> None:
        if job not in self.jobs:
            return
        pid, _ = self.jobs[job]
        # A process that has not come to its own session yet is the only one of its job.
        try:
            os.killpg(pid, number)
        except ProcessLookupError:
            os.kill(pid, number)  # not collected yet, so its number is still its own

    def _collect(self, job: int) -> None:
        pid, handle = self.jobs.pop(job)
        os.close(handle)
        self._say({"job": job, "code": os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])})

    def _say(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # the caller is gone; its jobs go on
            self.channel.send(json.dumps(message).encode())

    def _renew_if_stale(self) -> None:
        if _stamps() == self.stamps:
            return
        self.channel.set_inheritable(True)
        jobs = {str(job): pid for job, (pid, _) in self.jobs.items()}
        code = f"from core.study.forkserver import again; again({self.channel.fileno()}, {self.preload!r}, {jobs!r})"
        os.execv(sys.executable, [sys.executable, "-P", "-c", code])


def _stamps() -> dict[str, tuple[int, int]]:
    """Time and size of every imported module's file."""
    found = {}
    for module in [*sys.modules.values()]:
        file = getattr(module, "__file__", None)
        if isinstance(file, str):
            try:
                stat = Path(file).stat()
            except OSError:
                found[file] = (0, 0)
            else:
                found[file] = (stat.st_mtime_ns, stat.st_size)
    return found


def _receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A message and its descriptors; nothing once the caller is gone."""
    descriptors = array.array("i")
    room = socket.CMSG_SPACE(2 * descriptors.itemsize)
    try:
        data, further, _, _ = channel.recvmsg(SIZE, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionError:
        return {}, []
    for level, kind, content in further:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(content)
    return json.loads(data) if data else {}, descriptors.tolist()


def _be(start: Start) -> None:
    """Become the job: its session, streams, folder, variables and arguments; ends as an interpreter of its own does."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, stream in ((nothing, 0), (start.output, 1), (start.output, 2)):
        os.dup2(descriptor, stream)
    os.fchdir(start.folder)
    for descriptor in (nothing, start.output, start.folder):
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(start.env)
    module, *words = start.argv
    sys.argv[:] = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
