"""What a two-level fraction cannot tell apart.

A fraction sets some factors by products of others (E = ABCD: factor E is high where an even number of A to D is low).
Every effect is then measured together with its aliases: the numbers add up, and no analysis can take them apart.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

import attrs

MOST_GENERATORS = 12


@attrs.frozen(kw_only=True)
class Alias:
    """One main effect or two-way interaction, and what is measured with it."""

    effect: str
    """factors joined by ":" """
    mixed_with: tuple[str, ...]
    """aliases of any order, shortest first, with "-" before those of opposite sign"""
    clear: bool
    """no main effect and no other two-way interaction is among the aliases"""


@attrs.frozen(kw_only=True)
class Aliases:
    """The alias table of a fraction."""

    factors: tuple[str, ...]
    relation: tuple[str, ...]
    """words of the defining relation: products of factors that are the same in every cell"""
    resolution: int | None
    """length of the shortest word; None for a full factorial, where nothing is aliased"""
    cells: int
    table: tuple[Alias, ...]
    """main effects, then two-way interactions"""


def aliases(generators: Iterable[str], *, factors: Iterable[str] = ()) -> Aliases:
    """The alias table of the two-level fraction that `generators` define (Box & Hunter 1961, Technometrics 3:311).

    A generator reads "E=ABCD", "E=-ABC", or with longer names "norm=attention*ffn". `factors` names those that no
    generator has, and gives their order.

    Raises ValueError for text of another form, a factor set twice or by itself, a factor used that is set by another
    generator, or more than 12 generators.
    """
    parsed = [_parse(text) for text in generators]
    if len(parsed) > MOST_GENERATORS:
        raise ValueError(f"at most {MOST_GENERATORS} generators are handled, got {len(parsed)}.")
    made = [name for name, _, _ in parsed]
    for name, _, parts in parsed:
        if made.count(name) > 1:
            raise ValueError(f"factor {name!r} is set by two generators; keep one.")
        for part in parts:
            if part in made:
                message = (
                    f"the generator of {name!r} uses {part!r}, which another one sets; write it out in base factors."
                )
                raise ValueError(message)
    names = tuple(dict.fromkeys([*factors, *sorted(part for _, _, parts in parsed for part in parts), *made]))
    place = {name: 1 << i for i, name in enumerate(names)}
    words = [(1, 0)]
    for name, sign, parts in parsed:
        word = place[name] | sum(place[part] for part in parts)
        words += [(sign * other_sign, word ^ other) for other_sign, other in words]
    words = sorted(words[1:], key=lambda word: (word[1].bit_count(), _spell(word[1], names)))
    effects = [place[name] for name in names]
    effects += [a | b for a, b in itertools.combinations(effects, 2)]
    return Aliases(
        factors=names,
        relation=tuple(_signed(sign, word, names) for sign, word in words),
        resolution=words[0][1].bit_count() if words else None,
        cells=2 ** (len(names) - len(parsed)),
        table=tuple(_alias(effect, words, names) for effect in effects),
    )


def _parse(text: str) -> tuple[str, int, tuple[str, ...]]:
    match = re.fullmatch(r"\s*([\w.]+)\s*=\s*([+-]?)\s*([\w.]+(?:\s*\*\s*[\w.]+)*)\s*", text)
    if match is None:
        raise ValueError(f'a generator reads "E=ABCD" or "norm=attention*ffn", got {text!r}.')
    name, sign, product = match.groups()
    single = "*" not in product and len(name) == 1
    parts = tuple(product) if single else tuple(part.strip() for part in product.split("*"))
    if len(parts) < 2 or len(set(parts)) < len(parts) or name in parts:
        message = (
            f"generator {text!r} must set a factor by the product of two or more others, each named once; "
            'single letters need no sign ("E=AB"), longer names "*" ("norm=attention*ffn").'
        )
        raise ValueError(message)
    return name, -1 if sign == "-" else 1, parts


def _alias(effect: int, words: list[tuple[int, int]], names: tuple[str, ...]) -> Alias:
    others = sorted(
        ((sign, effect ^ word) for sign, word in words), key=lambda o: (o[1].bit_count(), _spell(o[1], names))
    )
    return Alias(
        effect=_spell(effect, names),
        mixed_with=tuple(_signed(sign, other, names) for sign, other in others),
        clear=all(other.bit_count() > 2 for _, other in others),
    )


def _spell(word: int, names: tuple[str, ...]) -> str:
    return ":".join(name for i, name in enumerate(names) if word >> i & 1)


def _signed(sign: int, word: int, names: tuple[str, ...]) -> str:
    return ("-" if sign < 0 else "") + _spell(word, names)
