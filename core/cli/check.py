"""`core check`: does a piece obey the laws of its kind?"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from shlex import quote
from typing import TYPE_CHECKING

import attrs

from core.cli.choose import take_apart
from core.errors import UserError
from core.layers import is_flag
from core.names import near
from core.registry import KINDS, Registry, installed

if TYPE_CHECKING:
    from core.testing.judge import Verdict

HELP = """usage: core check KIND NAME [--examples N] [--seed N] [-k TEXT]
       core check KIND [...]
       core check --all [...]

Puts a piece to the laws of its kind, with configurations and tensors drawn at random: one line a law, and for a broken
law the smallest example found and the command that repeats it. A name may set parameters (`moe4x2`, `window(w=3)`);
what it leaves open is drawn. A law is REFUSED where the piece raises a ValueError in whatever configuration. With KIND
alone all pieces of the kind are checked, with --all all that are installed, a line each.

  --examples N   examples of each law; by default as many as the law asks for
  --seed N       another seed (default 0): the same seed gives the same examples
  -k TEXT        only laws whose name or sentence has TEXT

Exit status 1 if a law is broken or refused, or a piece does not load. Needs the extra `dev`."""

OPTIONS = {"--examples": "examples", "--seed": "seed", "-k": "only"}
SWITCHES = {"-h": "help", "--help": "help", "--all": "all"}


@attrs.frozen
class Asked:
    """What the command line asks for."""

    pieces: tuple[tuple[str, str], ...]
    """(kind, name)"""
    alone: bool
    """one piece, told law by law"""
    examples: int | None
    seed: int
    only: str


def main(words: list[str]) -> int:
    asked = _asked(words)
    if asked is None:
        print(HELP)
        return 0
    try:
        import hypothesis  # noqa: F401
        import pytest  # noqa: F401
    except ImportError as error:
        raise UserError(f"`core check` needs {error.name}. Install with: pip install 'cellcore[dev]'") from None
    return _one(asked) if asked.alone else _many(asked, installed())


def _asked(words: list[str]) -> Asked | None:
    """The command line taken apart; None where help is wanted.

    Raises:
        UserError: words that say nothing that can be checked.
    """
    places, flags = _sorted(words)
    said = take_apart(flags, switches=SWITCHES, options=OPTIONS)
    if "help" in said.switches:
        return None
    if said.overrides:
        hint = near(said.overrides[0], [*OPTIONS, *SWITCHES])
        raise UserError(f"`core check` has no flag {said.overrides[0]}.{hint} A name may set parameters: window(w=3)")
    examples = said.options.get("examples")
    rest = (
        None if examples is None else _number("--examples", examples, 1),
        _number("--seed", said.options.get("seed", "0"), 0),
        said.options.get("only", ""),
    )
    registry = installed()
    if "all" in said.switches:
        if places:
            raise UserError(f"--all checks every piece; leave out {' '.join(places)}")
        every = ((kind, name) for kind in registry.kinds() for name in _names(registry, kind))
        return Asked(tuple(every), False, *rest)
    if len(places) == 1:
        return Asked(tuple((places[0], name) for name in _names(registry, places[0])), False, *rest)
    if len(places) != 2:
        raise UserError(f"usage: core check KIND NAME, or core check --all. Kinds: {', '.join(KINDS)}")
    kind, name = places
    registry.find(kind, name)
    return Asked(((kind, name),), True, *rest)


def _sorted(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Places, and flags with their values."""
    places: list[str] = []
    flags: list[str] = []
    for word in words:
        behind = bool(flags) and flags[-1] in OPTIONS
        (flags if behind or is_flag(word) else places).append(word)
    return places, flags


def _number(flag: str, text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{flag} takes a whole number of at least {least}, not {text!r}")
    return int(text)


def _names(registry: Registry, kind: str) -> list[str]:
    """How every piece of a kind is reached."""
    disputed = registry.disputed(kind)
    return [row.qualified if row in disputed else row.name for row in registry.rows(kind) + disputed]


def _one(asked: Asked) -> int:
    from core.testing.judge import Court
    from core.testing.laws import MORE

    kind, name = asked.pieces[0]
    if kind in MORE:
        raise UserError(f"the laws of {kind} need more than a name: {MORE[kind]}")
    verdicts: list[Verdict] = []

    def tell(verdict: Verdict) -> None:
        verdicts.append(verdict)
        print(f"{_word(verdict):7}  {verdict.law}: {verdict.sentence}", flush=True)
        if verdict.fault is not None:
            print(textwrap.indent(f"{verdict.fault}\nagain: {_again(asked, kind, name, verdict.law)}", " " * 9))

    court = Court(tell, asked.examples, asked.seed, asked.only)
    court.summon(kind, name)
    if not court.judge():
        raise UserError(f"no law of {kind} has {asked.only!r} in its name or sentence")
    print(f"{kind} {name}: {_count(verdicts)}")
    return 1 if any(verdict.fault is not None for verdict in verdicts) else 0


def _many(asked: Asked, registry: Registry) -> int:
    from core.testing.judge import Court
    from core.testing.laws import MORE

    wide = max((len(f"{kind} {name}") for kind, name in asked.pieces), default=0)
    bad, checked = len(registry.broken), 0
    left: list[str] = []
    for manifest in registry.broken:
        print(f"BROKEN   {manifest.origin}: {manifest.reason}")
    for kind, name in asked.pieces:
        if kind in MORE:
            continue
        lacking = _lacking(kind, name)
        if lacking:
            left.append(f"{kind} {name}; it needs a value: core check {kind} '{name}({lacking})'")
            continue
        checked += 1
        verdicts: list[Verdict] = []
        court = Court(verdicts.append, asked.examples, asked.seed, asked.only)
        try:
            court.summon(kind, name)
        except UserError as error:
            bad += 1
            print(f"BROKEN   {kind} {name}: {error}", flush=True)
            continue
        court.judge()
        faults = [verdict for verdict in verdicts if verdict.fault is not None]
        bad += bool(faults)
        word = next((_word(verdict) for verdict in sorted(faults, key=lambda fault: not fault.tried)), "ok")
        print(f"{word:7}  {f'{kind} {name}':{wide}}  {_count(verdicts)}", flush=True)
        for fault in faults:
            print(f"         {fault.law}: {fault.sentence}\n         {_again(asked, kind, name, fault.law)}")
    left += [f"{kind}; {MORE[kind]}" for kind in dict.fromkeys(kind for kind, _ in asked.pieces if kind in MORE)]
    for line in left:
        print(f"not checked: {line}")
    print(f"{checked} piece{'' if checked == 1 else 's'}, {f'{bad} not sound' if bad else 'all sound'}")
    return 1 if bad else 0


def _lacking(kind: str, name: str) -> str:
    """What a name leaves open that nobody can guess, as it is spelt; of a piece that does not load, nothing."""
    from core.testing.configurations import needed

    try:
        return ", ".join(f"{parameter}=..." for parameter in needed(kind, name))
    except UserError:
        return ""


def _again(asked: Asked, kind: str, name: str, law: str) -> str:
    examples = f" --examples {asked.examples}" if asked.examples else ""
    return f"core check {kind} {quote(name)} -k {law} --seed {asked.seed}{examples}"


def _word(verdict: Verdict) -> str:
    return "ok" if verdict.fault is None else "BROKEN" if verdict.tried else "REFUSED"


def _count(verdicts: list[Verdict]) -> str:
    """`7 laws, 6 ok, 1 broken`."""
    words = Counter(_word(verdict).lower() for verdict in verdicts)
    laws = f"{len(verdicts)} law{'' if len(verdicts) == 1 else 's'}"
    if words["ok"] == len(verdicts):
        return f"{laws}, all ok"
    return ", ".join([laws, *(f"{words[word]} {word}" for word in ("ok", "broken", "refused") if words[word])])
