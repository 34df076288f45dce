"""What the verbs of `core ablate` read from a command line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from core.cli.choose import Words, take_apart
from core.errors import UserError
from core.layers import cli_layer, is_flag
from core.study.ask import Asked, ask
from core.study.folder import Stored, TrialOf

SWITCHES = {"-h": "help", "--help": "help", "-q": "quiet", "--quiet": "quiet", "--dry-run": "dry", "--quick": "quick"}
OPTIONS = {"-o": "out", "--out": "out"}


def asked_of(words: list[str]) -> tuple[Asked, Words]:
    """The study that files and flags ask for, and the verb's own switches.

    Raises:
        UserError: several files, or any mistake in them.
    """
    said = take_apart(words, switches=SWITCHES, options=OPTIONS)
    if len(said.files) > 1:
        raise UserError(f"one study file at a time, not {' and '.join(said.files)}")
    layer = cli_layer(said.overrides, [*SWITCHES, *OPTIONS])
    return ask(said.files[0] if said.files else None, layer.entries), said


def directory(words: list[str], verb: str, options: Mapping[str, str] | None = None,
              switches: Mapping[str, str] | None = None, *,
              further: bool = False) -> tuple[Path, list[str], Words]:  # fmt: skip
    """The study's directory, further words where the verb takes any, and flags of a verb that works on one.

    Raises:
        UserError: no directory, a word too many, or a flag that the verb does not have.
    """
    places: list[str] = []
    rest: list[str] = []
    known = {**(switches or {}), "-q": "quiet", "--quiet": "quiet"}
    taking = {*(options or {})}
    for before, word in zip(["", *words], words, strict=False):
        (rest if before in taking or is_flag(word) else places).append(word)
    said = take_apart(rest, switches=known, options=dict(options or {}))
    if said.overrides:
        flags = ", ".join([*known, *taking])
        raise UserError(f"`core ablate {verb}` has no {said.overrides[0]}; it takes {flags}")
    if not places:
        raise UserError(f"which study? usage: core ablate {verb} DIR")
    if len(places) > 1 and not further:
        raise UserError(f"`core ablate {verb}` takes one directory, not {places[1]!r} too")
    return Path(places[0]), places[1:], said


def trial_called(stored: Stored, word: str) -> TrialOf:
    """The trial whose id begins with a word.

    Raises:
        UserError: E-TRIAL: none does, or several do.
    """
    hits = {trial.id: trial for trial in stored.trials if trial.id.startswith(word)}
    if len(hits) != 1:
        raise UserError(
            f"E-TRIAL: {len(hits)} trials of {stored.root} begin with {word!r}; "
            f"`core ablate status {stored.root} --json` lists them"
        )
    return next(iter(hits.values()))
