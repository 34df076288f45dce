"""What is varied: axes of levels, each level a label and the values that it stands for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from core.choices import flatten
from core.errors import UserError
from core.names import near


@attrs.frozen
class Level:
    """One value of an axis."""

    label: str
    entries: Mapping[str, Any] = attrs.field(eq=False)
    """flat dotted keys -> values: `{"ffn": "moe", "ffn.experts": 4}`"""


@attrs.frozen
class Axis:
    """One thing that is varied: a slot or a parameter."""

    key: str
    levels: tuple[Level, ...]
    origin: str

    def level(self, label: str, where: str) -> Level:
        """The level of this label.

        Raises:
            UserError: there is none.
        """
        found = next((level for level in self.levels if level.label == label), None)
        if found is None:
            labels = [level.label for level in self.levels]
            raise UserError(
                f"{where}: {self.key} has no level {label!r}.{near(label, labels)} Its levels: {', '.join(labels)}"
            )
        return found


def make_axis(key: str, values: Sequence[Any], origin: str) -> Axis:
    """An axis from what a user wrote for it.

    Args:
        key: a dotted key, `attention`, `ffn.ratio`.
        values: each a value, or a table `{name = "moe", experts = 4, as = "moe4x2"}`, `{value = 0.001, as = "slow"}`.
        origin: where it was written.

    Raises:
        UserError: fewer than two values, a level twice, or a table without a name.
    """
    levels = tuple(_level(key, value, origin) for value in values)
    if len(levels) < 2:
        only = f"one level only, {levels[0].label!r}; a value that all arms share stands in [set]" if levels else "none"
        raise UserError(f"{origin}: an axis has two levels or more, and {key} has {only}")
    labels = [level.label for level in levels]
    twice = next((one for one in labels if labels.count(one) > 1), None)
    if twice is not None:
        raise UserError(
            f"{origin}: the axis {key} has two levels called {twice!r}; keep one, or tell them apart by `as`"
        )
    return Axis(key, levels, origin)


def _level(key: str, value: Any, origin: str) -> Level:
    if not isinstance(value, Mapping):
        return Level(spoken(value), {key: value})
    rest = dict(value)
    said = rest.pop("as", None)
    if said is not None and (not isinstance(said, str) or not said.strip()):
        raise UserError(f"{origin}: `as` of a level of {key} is what the report calls it, got {said!r}")
    if {*rest} == {"value"}:
        return Level(said or spoken(rest["value"]), {key: rest["value"]})
    name = rest.pop("name", None)
    if not isinstance(name, str):
        raise UserError(
            f'{origin}: a level of {key} that is a table needs a name, {{ name = "moe", experts = 4 }}, or a value, '
            '{ value = 0.001, as = "slow" }'
        )
    inner = {f"{key}.{k}": v for k, v in flatten(rest).items()}
    args = ", ".join(f"{k.removeprefix(key + '.')}={spoken(v)}" for k, v in inner.items())
    return Level(said or (f"{name}({args})" if args else name), {key: name, **inner})


def spoken(value: Any) -> str:
    """A value as its label: what one would type for it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(spoken, value)) + "]"
    return str(value)
