"""Curves as TensorBoard events."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, final

from core.errors import UserError
from core.files import write_atomic
from core.kinds import Track, Tracker
from core.params import params
from core.train.tracked import told

FOLDER = "tensorboard"
AROUND = 12, 4
"""bytes of a record before its event (the length, and a checksum of it) and behind it (a checksum): TFRecord"""


@final
@params
class Tensorboard(Tracker):
    """Writes events to `tensorboard/` of the run; nothing leaves the machine. `tensorboard --logdir runs` shows all.

    Curves stand under their names in double precision, final scores under `final/`, the configuration and who the run
    is as texts. A run that is taken up again opens a further file; events after its step are taken out of the earlier
    ones, as TensorBoard's own mark of a restart (`purge_step`) does not reach values of this precision.
    """

    def start(self, directory: Path, step: int) -> Track:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "tracker tensorboard needs tensorboard. Install it with: pip install 'cellcore[tensorboard]'"
            ) from None
        folder = directory / FOLDER
        earlier = sorted(folder.glob("events.*"))
        for path in earlier:
            write_atomic(path, b"".join(_kept(path.read_bytes(), step)))
        writer = SummaryWriter(str(folder))
        config, facts = told(directory)
        if facts and not earlier:
            for name, said in {"config": config, "run": facts}.items():
                text = json.dumps(said, indent=1, default=str)
                writer.add_text(name, "".join(f"    {line}\n" for line in text.splitlines()), 0)
        writer.flush()
        return _Track(writer)


@final
class _Track:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step, new_style=True, double_precision=True)
        self._writer.flush()  # else two minutes of events are lost with a killed run, and never logged again

    def conclude(self, step: int, scores: Mapping[str, float]) -> None:
        self.log(step, {f"final/{name}": value for name, value in scores.items()})

    def finish(self) -> None:
        self._writer.close()


def _kept(data: bytes, step: int) -> Iterator[bytes]:
    """The whole records of a file of events up to a step; a kill may have cut the last one."""
    from tensorboard.compat.proto.event_pb2 import Event

    head, tail = AROUND
    at = 0
    while at + head <= len(data):
        end = at + head + struct.unpack_from("<Q", data, at)[0] + tail
        if end > len(data):
            return
        if Event.FromString(data[at + head : end - tail]).step <= step:
            yield data[at:end]
        at = end
