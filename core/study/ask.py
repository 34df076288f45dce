"""What a study is asked to be: a study file and flags, brought together, each choice with its origin."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import attrs

from core.config import Layer, Resolved, resolve
from core.errors import UserError
from core.layers import env_layer
from core.names import Text, near, split
from core.registry import Registry, installed
from core.study.axes import Axis, make_axis
from core.study.design import Grid, lay_out
from core.study.said import FLAGS, Exclusion, Words, from_file
from core.study.settings import Study
from core.study.spans import rung_of, seconds_of

MOST_SEEDS = 10_000


@attrs.frozen(kw_only=True)
class Asked:
    """A study as asked, names not resolved yet."""

    resolved: Resolved
    """of `Study`: every setting with its origin"""
    axes: tuple[Axis, ...]
    """by key"""
    tasks: Mapping[str, Layer]
    """name -> what is its own; empty where each system is a task"""
    baseline: Mapping[str, str]
    """axis -> label, where somebody said it"""
    fixed: tuple[Layer, ...]
    """what all arms share: of the environment, then of the study"""
    exclude: tuple[Exclusion, ...]
    cells: tuple[Mapping[str, str], ...]
    """of the design `list`, axis -> label"""
    seeds: tuple[int, ...]
    """sorted"""
    blocks: tuple[str, tuple[Any, ...]] | None
    """a key and its values, sorted"""

    @property
    def study(self) -> Study:
        return self.resolved.root

    def shared(self) -> dict[str, tuple[Any, str]]:
        """What all arms share, with its origin: the environment's part below the study's; an axis and the seeds beat
        the environment."""
        environment, study = self.fixed
        varied = {axis.key for axis in self.axes} | {"seed", self.blocks[0] if self.blocks else "seed"}
        found = {key: said for key, said in environment.entries.items() if key not in varied}
        return found | dict(study.entries)

    def grid(self, baseline: Mapping[str, str]) -> Grid:
        """The cells around a baseline that names a level of every axis."""
        setting = self.resolved.settings["design.kind"]
        return lay_out(self.axes, baseline, setting.value, cells=self.cells, exclude=self.exclude, where=setting.origin)


def ask(file: str | None, words: Mapping[str, tuple[Any, str]], registry: Registry | None = None) -> Asked:
    """Bring a study file and flags together; flags win.

    Args:
        file: the study file.
        words: flags without their dashes -> (value, origin), `core.layers.cli_layer` entries. A value with commas is an
            axis (`linear,gated_headwise`); in brackets it is one value (`[mse,distance_mse]`); `+flash` is one more
            level of an axis of the file.

    Raises:
        UserError: every sort of mistake, with file and line or flag.
    """
    registry = registry or installed()
    said = from_file(file) if file else Words()
    said.hear(words)
    flags = tuple(f"--{flag.replace('_', '-')}" for flag in FLAGS)
    resolved = resolve(Study, [Layer("study", said.settings), Layer("CLI", said.flags, flags)], registry)
    for key, read in (("run.timeout", seconds_of), ("run.stop", rung_of)):
        setting = resolved.settings[key]
        try:
            read(setting.value)
        except UserError as error:
            raise UserError(f"{error} ({setting.origin})") from None
    axes = tuple(make_axis(key, values, origin) for key, (values, origin) in sorted(said.axes.items()))
    blocks = _blocks(resolved.root.blocks, resolved.settings["blocks"].origin)
    _refuse_twice(said, axes, resolved, blocks)
    _refuse_unknown(axes, said.fixed, registry)
    return Asked(
        resolved=resolved,
        axes=axes,
        tasks={name: Layer(f"task {name}", entries) for name, entries in said.tasks.items()},
        baseline=_baseline(said, axes),
        fixed=(env_layer(os.environ), Layer("study", said.fixed, flags)),
        exclude=tuple(said.exclude),
        cells=tuple(said.cells),
        seeds=seeds_of(resolved.root.seeds, resolved.settings["seeds"].origin),
        blocks=blocks,
    )


def seeds_of(text: str, origin: str) -> tuple[int, ...]:
    """`6` -> 0..5, `10:16` -> 10..15, `3,7,11`; in order, whatever the order they were given in.

    Raises:
        UserError: nothing of the kind, no seed, too many, or a seed twice.
    """
    hit = re.fullmatch(r"([0-9]{1,18})(?::([0-9]{1,18}))?", text.strip())
    if hit:
        first, end = (0, int(hit[1])) if hit[2] is None else (int(hit[1]), int(hit[2]))
        if first >= end:
            raise UserError(
                f"seeds: {text!r} is no seed at all; 6 is six of them, 10:16 those from 10 to 15 ({origin})"
            )
        if end - first > MOST_SEEDS:
            raise UserError(f"seeds: {end - first} are more than anyone can run; at most {MOST_SEEDS} ({origin})")
        return tuple(range(first, end))
    if not re.fullmatch(r"\s*[0-9]{1,18}\s*(,\s*[0-9]{1,18}\s*)*,?\s*", text):
        raise UserError(f"seeds: {text!r} says no seeds; write 6, 10:16 or 3,7,11 ({origin})")
    found = sorted(int(piece) for piece in text.split(",") if piece.strip())
    twice = next((a for a, b in pairwise(found) if a == b), None)
    if twice is not None:
        raise UserError(f"seeds: {twice} is there twice; its pairs would count twice ({origin})")
    return tuple(found)


def _baseline(said: Words, axes: Sequence[Axis]) -> dict[str, str]:
    """What was said of the baseline; an axis or level that is none is refused."""
    by_key = {axis.key: axis for axis in axes}
    for key, (level, origin) in said.baseline.items():
        if key not in by_key:
            known = ", ".join(by_key) or "none: give one as --attention linear,gated_headwise"
            raise UserError(f"{origin}: the baseline names {key!r}, which is no axis.{near(key, by_key)} Axes: {known}")
        by_key[key].level(level, origin)
    return {key: level for key, (level, _) in said.baseline.items()}


def _blocks(text: str, origin: str) -> tuple[str, tuple[Any, ...]] | None:
    if not text:
        return None
    key, equals, values = text.partition("=")
    pieces = sorted({piece.strip() for piece in split(values, text)}, key=_natural)
    if not equals or not key.strip() or len(pieces) < 2 or len(pieces) < len(split(values, text)):
        raise UserError(f"blocks: write KEY=VALUE,VALUE with two or more different values, not {text!r} ({origin})")
    return key.strip().replace("-", "_").removesuffix(".name"), tuple(Text(piece) for piece in pieces)


def _natural(piece: str) -> tuple[int, str]:
    """Numbers by their size, before words."""
    return (int(piece), "") if re.fullmatch("[0-9]{1,18}", piece) else (10**18, piece)


def _refuse_twice(said: Words, axes: Sequence[Axis], resolved: Resolved,
                  blocks: tuple[str, tuple[Any, ...]] | None) -> None:  # fmt: skip
    """Refuse what is varied and fixed, varied in two ways, or a task in two ways at once."""
    origin = resolved.settings["system"].origin
    systems = resolved.root.system
    if said.tasks and systems:
        raise UserError(
            f"system ({origin}) and [tasks] both say what the tasks are; a task names its system itself: "
            '[tasks.NAME] with system = "..."'
        )
    if len({*systems}) < len(systems):
        raise UserError(f"system: {', '.join(systems)} names one twice; keep one ({origin})")
    places = [("fixed", said.fixed), *((f"fixed in task {name}", own) for name, own in said.tasks.items())]
    for axis in axes:
        for how, own in places:
            if axis.key in own:
                raise UserError(
                    f"{axis.key} is an axis ({axis.origin}) and {how} ({own[axis.key][1]}) at once; keep one"
                )
    if blocks is None:
        return
    key, origin = blocks[0], resolved.settings["blocks"].origin
    if key in ("seed", "system", "recipe"):
        raise UserError(f"blocks: {key} is no block; say --seeds 0,1,2 or --system spatial,perturb ({origin})")
    for how, known in [("an axis", {axis.key: (None, axis.origin) for axis in axes}), *places]:
        if key in known:
            raise UserError(f"{key} is {how} ({known[key][1]}) and varies over blocks ({origin}) at once; keep one")


def _refuse_unknown(axes: Sequence[Axis], fixed: Mapping[str, tuple[Any, str]], registry: Registry) -> None:
    """Refuse wrong names before anything heavy is imported; what a parameter takes shows when cells are resolved."""
    varied = [(axis.key, level.entries[axis.key], axis.origin) for axis in axes for level in axis.levels]
    wrong = registry.unknown([*varied, *((key, *said) for key, said in fixed.items())])
    if wrong:
        raise UserError("\n".join(wrong))
