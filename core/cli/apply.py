"""A finished run's model put to a file of new items: what `core sample` and `core embed` share."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
from torch import nn

from core.cli.choose import resolve_stored, resolve_trained
from core.errors import UserError
from core.kinds import Batch, Data, Items, System
from core.layers import is_flag
from core.train.trained import Prepared, finished, read_preparation, trained_model

IDLE = frozenset({"recipe", "metrics", "tracker", "executor", "data"})
"""first words of flags that a trained model has no use for, but for `Data.applied_by`"""


@attrs.frozen(kw_only=True)
class Trained:
    """A finished run, ready for new items."""

    run: Path
    name: str
    system: System
    data: Data
    seed: int
    digest: str
    prepared: Prepared
    model: nn.Module

    def items(self, file: Path, needs: Collection[str]) -> Items:
        """Read a file as the training data were, and tell how it differs."""
        items = self.data.like(file, self.prepared.told, needs)
        for note in items.notes:
            print(f"core: {note}", file=sys.stderr)
        return items

    def save(
        self,
        items: Items,
        out: Path,
        parts: Sequence[tuple[Batch, Mapping[str, np.ndarray]]],
        facts: Mapping[str, Any],
        words: Sequence[str],
        *,
        fresh: bool,
    ) -> None:
        """Write what was made of each unit, in the order of the file's rows."""
        rows = np.concatenate([unit.fields["index"][unit.real_BN].numpy() for unit, _ in parts])
        back = np.argsort(rows, kind="stable")
        made = {name: np.concatenate([values[name] for _, values in parts], axis=1)[:, back] for name in parts[0][1]}
        said = {
            "run": self.digest,
            "system": self.name,
            "command": " ".join(["core", *words]),
            "version": version("cellcore"),
            **facts,
        }
        items.save(out, made, said, fresh=fresh)
        shapes = ", ".join(f"{name} {' x '.join(map(str, values.shape[1:]))}" for name, values in made.items())
        print(f"{out}  {shapes}")


def applied(places: Sequence[str], usage: str) -> tuple[Path, Path]:
    """The run and the file of a command line.

    Raises:
        UserError: there are fewer or more places than two.
    """
    if len(places) != 2:
        raise UserError(f"a run directory and a file are wanted, not {len(places)} places; usage: {usage}")
    return Path(places[0]), Path(places[1])


def target_of(options: Mapping[str, str], file: Path) -> Path:
    """Where the result goes.

    Raises:
        UserError: nowhere is said, it is the input, its folder is not there, or its name ends otherwise than the
            input's, whose format it has.
    """
    if "out" not in options:
        raise UserError("where to? Name the file to write with -o")
    out = Path(options["out"])
    writable(out)
    if out.suffix != file.suffix:
        raise UserError(f"-o {out}: what is written is of the input's format; name a file that ends in {file.suffix}")
    if out.exists() and file.exists() and out.samefile(file):
        raise UserError(f"-o {out} is the input itself; name another file to write")
    return out


def writable(out: Path) -> None:
    """Refuse a place that no file can have, before the work and not after it.

    Raises:
        UserError: it is a folder, or in none.
    """
    if not out.absolute().parent.is_dir() or out.is_dir():
        raise UserError(
            f"-o {out}: {'is a folder' if out.is_dir() else 'its folder is not there'}; name a file to write"
        )


def refuse_idle(overrides: Collection[str], data: Data) -> None:
    """Flags of judging and of the training data would be taken in vain by a model that is trained.

    Raises:
        UserError: one of them is given.
    """
    for word in overrides:
        key = word.lstrip("-").partition("=")[0]
        first, *further = key.split(".")
        acts = first == "data" and bool(further) and further[0] in data.applied_by
        if is_flag(word) and first in IDLE and not acts:
            raise UserError(
                f"--{key} does nothing here, as the model is trained and the file named is what it is put to: leave it "
                "out"
            )


def open_trained(run: Path, overrides: Collection[str], *, sampled: bool) -> Trained:
    """A run's model and what its data told of their preparation.

    Args:
        run: the directory.
        overrides: flags laid over its configuration.
        sampled: whether the model is to be sampled.

    Raises:
        UserError: the run is not complete, keeps no preparation, or a flag does not act here.
    """
    record = finished(run)
    prepared = read_preparation(run)
    refuse_idle(overrides, resolve_stored(run, []).root.data)
    settings = resolve_trained(run, overrides, sampled=sampled).root
    device = settings.strategy.device(settings.device)
    if device.type == "cpu":
        torch.set_deterministic_debug_mode("error")
    return Trained(
        run=run,
        name=record["system"],
        system=settings.system,
        data=settings.data,
        seed=settings.seed,
        digest=record["digest"],
        prepared=prepared,
        model=trained_model(run, settings.system, prepared.card, settings.seed, device),
    )
