"""A finished run's model put to a file of new items: what `core sample` and `core embed` share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import numpy as np
import torch
from torch import nn

from core.cli.choose import resolve_stored, resolve_trained
from core.cli.place import one_of
from core.errors import UserError
from core.files import spare
from core.kinds import Batch, Data, Items, System
from core.layers import is_flag
from core.train.streams import Streams
from core.train.trained import Prepared, finished, read_preparation, trained_model

IDLE = frozenset({"recipe", "metrics", "tracker", "executor", "data"})
"""first words of flags that a trained model has no use for, but for `Data.applied_by`"""

Parts: TypeAlias = Sequence[tuple[Batch, Mapping[str, np.ndarray]]]
"""each unit of a file with what was made for it, (draws, N, F) by field"""


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

    def fits(self, out: Path, file: Path) -> None:
        """Refuse a name that ends as no file of the format that is written.

        Raises:
            UserError: with the right ending.
        """
        ending = self.data.ending(file)
        if out.suffix != ending:
            what = "of the input's format" if ending == file.suffix else "AnnData" if ending == ".h5ad" else ending
            raise UserError(f"-o {out}: what is written is {what}; name a file that ends in {ending}")

    def sampled(
        self, file: Path, mode: str, draws: int, seed: int, patch: int, tell: Callable[[str], None]
    ) -> tuple[Items, Parts, dict[str, Any]]:
        """What a mode makes of each unit of a file, and facts for its record; `core.kinds.System.generate` tells more.

        Args:
            tell: hears how the file differs from the training data.

        Raises:
            UserError: the file cannot be used, or the mode makes nothing so.
        """
        if not self.system.modes()[mode] and draws != 1:
            raise UserError(
                f"--draws {draws}: mode {mode} makes items of its own, and those of two draws have nothing in common "
                "to take a mean of; leave --draws out, and take another --seed for another draw"
            )
        self._exactly()
        items = self._items(file, self.system.modes()[mode], tell)
        parts = [
            (unit, self.system.generate(self.model, unit, mode, Streams(seed), index=i, draws=draws, patch=patch))
            for i, unit in enumerate(items.units())
        ]
        return items, parts, {"mode": mode, "draws": draws, "seed": seed, "patch": patch}

    def embedded(
        self, file: Path, layer: str | None, patch: int, tell: Callable[[str], None]
    ) -> tuple[Items, Parts, dict[str, Any]]:
        """What the model makes of each item of a file, and facts for its record.

        Raises:
            UserError: the file cannot be used, or the system embeds nothing there.
        """
        layers = self.system.layers()
        if not layers:
            raise UserError(f"the run's system, {self.name}, has no embedding")
        layer = one_of(layer or next(iter(layers)), layers, "--layer")
        self._exactly()
        items = self._items(file, layers[layer], tell)
        parts = [
            (unit, {"embedding": self.system.embed(self.model, unit, layer, items.known, patch=patch)[None]})
            for unit in items.units()
        ]
        return items, parts, {"layer": layer, "read": ", ".join(sorted(items.known)), "patch": patch}

    def write(self, items: Items, out: Path, parts: Parts, facts: Mapping[str, Any], *, fresh: bool) -> str:
        """Write what was made of each unit, in the order of the file's rows; the shape of each field."""
        rows = np.concatenate([unit.fields["index"][unit.real_BN].numpy() for unit, _ in parts])
        back = np.argsort(rows, kind="stable")
        made = {name: np.concatenate([values[name] for _, values in parts], axis=1)[:, back] for name in parts[0][1]}
        said = {"run": self.digest, "system": self.name, "version": version("cellcore"), **facts}
        items.save(out, made, said, fresh=fresh)
        return ", ".join(f"{name} {' x '.join(map(str, values.shape[1:]))}" for name, values in made.items())

    def _items(self, file: Path, needs: Collection[str], tell: Callable[[str], None]) -> Items:
        items = self.data.like(file, self.prepared.told, needs)
        for note in items.notes:
            tell(note)
        return items

    def _exactly(self) -> None:
        if next(self.model.parameters()).device.type == "cpu":
            torch.set_deterministic_debug_mode("error")


def say(note: str) -> None:
    """A note on a file, for whoever reads the command's output."""
    print(f"core: {note}", file=sys.stderr)


def applied(places: Sequence[str], usage: str) -> tuple[Path, Path]:
    """The run and the file of a command line.

    Raises:
        UserError: there are fewer or more places than two.
    """
    if len(places) != 2:
        raise UserError(f"a run directory and a file are wanted, not {len(places)} places; usage: {usage}")
    return Path(places[0]), Path(places[1])


def target_of(options: Mapping[str, str], file: Path, *, force: bool) -> Path:
    """Where the result goes.

    Raises:
        UserError: nowhere is said, it is the input, its folder is not there, or it would be written over without
            `force`.
    """
    if "out" not in options:
        raise UserError("where to? Name the file to write with -o")
    out = Path(options["out"])
    if out.is_file() and file.exists() and out.samefile(file):
        raise UserError(f"-o {out} is the input itself; name another file to write")
    writable(out, force=force)
    return out


def writable(out: Path, *, force: bool) -> None:
    """Refuse a place that no file can have, or that has one, before the work and not after it.

    Raises:
        UserError: it is a folder, in none, or a file that only `force` writes over.
    """
    if not out.absolute().parent.is_dir() or out.is_dir():
        raise UserError(
            f"-o {out}: {'is a folder' if out.is_dir() else 'its folder is not there'}; name a file to write"
        )
    spare(out, force=force)


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
