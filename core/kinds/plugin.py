"""What every kind has in common."""

from __future__ import annotations

from abc import ABC
from typing import ClassVar


class Plugin(ABC):
    """An immutable parameter class (`core.params.params`) that the registry can name.

    Where a plugin has weights, `build(...)` makes the `nn.Module`; the plugin itself holds none. A module made by
    `build` follows five rules, so that two arms of an ablation stay comparable and a run can be resumed exactly:

    - it never reads the global random state (randomness: `core.train.streams.Dropout` or its `reseed` protocol);
    - every module that owns parameters has `reset_parameters()`, whose draws may come from torch's global generator:
      the trainer seeds it once a parameter, by the parameter's qualified name;
    - it may be built under `torch.device("meta")` and run there, for shapes and FLOPs;
    - it keeps the dtype it is given;
    - a buffer that training changes is changed between steps (`core.train.between`), not in a forward pass.
    """

    KIND: ClassVar[str]

    def rejects(self, piece: Plugin) -> str | None:
        """Why a piece somewhere below this one cannot serve here, as what follows "because"; None where it can.

        Asked when names are resolved, before any tensor exists. What depends on names alone a manifest row can say
        (`accepts`).
        """
        return None

    def fingerprint(self) -> str:
        """SHA-256 over the content of the files that it reads, part of a run's identity; empty where it reads none.

        Data say theirs in `Card.fingerprint`.

        Raises:
            UserError: a file is missing.
        """
        return ""
