"""Declare a plugin's parameters once; help, checks, TOML, identity and documentation all follow.

    @params
    class Moe(FFN):
        \"\"\"Top-k routed mixture of experts.\"\"\"

        experts: int = knob(4, "number of expert networks", ge=1)
        balance: Literal["loss", "none"] = knob("loss", "how expert load is balanced")
        gate: Gate = slot("none", "scales the attended values")

A class is checked when it is created: every field is typed, documented and, where a number, boundable. An author's
mistake is a `TypeError` at import, never a surprise in a user's run.
"""

from __future__ import annotations

import functools
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar, dataclass_transform

import attrs

from core.acts import Condition, Idle, idle, read_conditions
from core.names import NAME

T = TypeVar("T")

LEAF_TYPES = (int, float, bool, str)
RESERVED = frozenset({"name"})


class NotFinite(ValueError):
    """A float parameter was nan or infinite."""


def knob(
    default: Any,
    help: str,
    *,
    ge: float | None = None,
    gt: float | None = None,
    le: float | None = None,
    lt: float | None = None,
    unit: str = "",
    source: str = "",
    acts: str = "",
    decides: Literal["", "start", "split"] = "",
    identity: bool = True,
) -> Any:
    """A plain parameter: int, float, bool, str, a Literal, a tuple of these, or one of them `| None`.

    `acts` is the condition on other parameters of the class beside which this one does anything, such as
    `spectral!=none` (`core.acts` has the grammar), slots that may stay empty among them; elsewhere any value but the
    default is refused.
    `decides` marks what a study must know of: `start`, how the piece begins (open, small, as nothing); `split`, which
    items are held out, so that another value is another split of the same data.
    `identity=False` marks a value that cannot change numbers (a log interval); it is left out of a run's identity.
    Pass `attrs.NOTHING` as the default of a parameter that must be given.
    """
    bounds = {">=": ge, ">": gt, "<=": le, "<": lt}
    meta = {
        "role": "knob",
        "help": help,
        "unit": unit,
        "source": source,
        "acts": acts,
        "decides": decides,
        "identity": identity,
        "bounds": {sign: limit for sign, limit in bounds.items() if limit is not None},
    }
    return attrs.field(default=default, metadata=meta, validator=_valid)


def slot(default: str | tuple[str, ...] | None, help: str, *, inline: bool = False, identity: bool = True) -> Any:
    """A place for another plugin, chosen by name; the field's type is the kind.

    `tuple[Metric, ...]` takes a list of names, `FlowPath | None` may stay empty; without a default the kind's row with
    `default = true` is taken. `inline` puts the plugin's own parameters beside the slot instead of below it (a
    system's `attention` is `attention`, not `system.attention`). `identity=False` marks a piece that cannot change
    numbers (a tracker).
    """
    meta = {"role": "slot", "help": help, "default": default, "inline": inline, "identity": identity}
    return attrs.field(metadata=meta)


def group(help: str) -> Any:
    """A nested block of plain parameters; the field's type is another `@params` class."""
    return attrs.field(metadata={"role": "group", "help": help})


def _valid(instance: Any, attribute: attrs.Attribute, value: Any) -> None:
    """Bounds hold, and beside the other values of the instance the value does something."""
    _within(attribute, value)
    if instance is None or not attribute.metadata["acts"] or value == attribute.default:
        return
    failed = idle(_conditions(type(instance), attribute.metadata["acts"]), vars(instance))  # type: ignore[arg-type]
    if failed is not None:
        found = {name: getattr(instance, name) for name in failed.names}
        raise Idle(attribute.name, value, failed, found)


@functools.cache
def _conditions(cls: type, text: str) -> tuple[Condition, ...]:
    """Those that a text states; a slot that may stay empty counts as `none` where it does."""
    named = {
        a.name: a.type
        for a in attrs.fields(cls)
        if a.metadata["role"] == "knob" or (a.metadata["role"] == "slot" and is_union(a.type))
    }
    return read_conditions(text, named)


def _within(attribute: attrs.Attribute, value: Any) -> None:
    """Bounds hold for a number and for each number of a list; a whole number fits into 64 bits, as in TOML."""
    if isinstance(value, tuple):
        for item in value:
            _within(attribute, item)
        return
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        raise NotFinite(f"{attribute.name} must be a finite number, got {value}")
    if value is None or isinstance(value, str):
        return
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{attribute.name} must fit into 64 bits, got {value:.3e}")
    tests: dict[str, Callable[[Any, Any], bool]] = {
        ">=": lambda a, b: a >= b,
        ">": lambda a, b: a > b,
        "<=": lambda a, b: a <= b,
        "<": lambda a, b: a < b,
    }
    bounds = attribute.metadata["bounds"]
    if not all(tests[sign](value, limit) for sign, limit in bounds.items()):
        raise ValueError(f"{attribute.name} must be {span(bounds)}, got {value}")


def span(bounds: dict[str, float]) -> str:
    """Bounds in words: `>= 1 and < 8`."""
    return " and ".join(f"{sign} {limit}" for sign, limit in bounds.items())


@attrs.frozen
class Field:
    """What a resolver, a help text or a test needs to know of one parameter."""

    name: str
    type: Any
    role: Literal["knob", "slot", "group"]
    help: str
    default: Any
    kind: str | None = None
    piece: type | None = None
    """the class that a slot asks for: the kind's, or a family of it"""
    many: bool = False
    optional: bool = False
    inline: bool = False
    unit: str = ""
    source: str = ""
    acts: tuple[Condition, ...] = ()
    """what has to hold for a value other than the default"""
    decides: Literal["", "start", "split"] = ""
    identity: bool = True
    bounds: dict[str, float] = attrs.field(factory=dict)

    @property
    def required(self) -> bool:
        return self.role == "knob" and self.default is attrs.NOTHING

    def spell(self) -> str:
        """The type as a user reads it: `int >= 1`, `loss|bias|none`, `gate by name`."""
        if self.role == "slot":
            return f"{self.kind} by name" + (", several" if self.many else "")
        if self.role == "group":
            return "table"
        return spell_type(self.type) + (f" {span(self.bounds)}" if self.bounds else "")


def spell_type(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "|".join(str(a) for a in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return "list of " + spell_type(typing.get_args(hint)[0])
    if is_union(hint):
        return " or ".join("none" if a is type(None) else spell_type(a) for a in typing.get_args(hint))
    return {int: "int", float: "float", bool: "true|false", str: "text"}.get(hint, getattr(hint, "__name__", str(hint)))


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(knob, slot, group))
def params(cls: type[T]) -> type[T]:
    """Make `cls` an immutable, keyword-only parameter class and check its declaration.

    Raises:
        TypeError: a field without type, help or a known role; a class without docstring; a name that is reserved or
            that a flag and an environment variable cannot both spell; a default of another type or out of its bounds.
    """
    made = attrs.define(frozen=True, kw_only=True, slots=False)(cls)
    attrs.resolve_types(made)  # type: ignore[type-var]
    if not (cls.__doc__ or "").strip() or (cls.__doc__ or "").startswith(f"{cls.__name__}("):
        raise TypeError(f"{cls.__qualname__}: a parameter class needs a docstring; `core show` prints it")
    for attribute in attrs.fields(made):  # type: ignore[arg-type]
        where = f"{cls.__qualname__}.{attribute.name}"
        if attribute.name in RESERVED:
            raise TypeError(f"{where}: '{attribute.name}' is the key that names a plugin; call the field otherwise")
        if not NAME.fullmatch(attribute.name) or "__" in attribute.name:
            raise TypeError(f"{where}: a name is lower-case letters, digits and single _, and begins with a letter")
        if attribute.metadata.get("role") is None:
            raise TypeError(f"{where}: declare it with knob(), slot() or group()")
        if not attribute.metadata["help"].strip():
            raise TypeError(f"{where}: give it a help text")
        field = _describe(made, attribute, where)
        if field.role == "knob" and not field.required:
            _check_default(attribute, where)
        elif field.acts:
            raise TypeError(f"{where}: what only acts sometimes needs a default for the rest")
    return made


def fields(cls: type) -> Iterator[Field]:
    """The declared parameters of a `@params` class, in order of declaration."""
    for attribute in attrs.fields(cls):
        yield _describe(cls, attribute, f"{cls.__qualname__}.{attribute.name}")


def in_force(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """The given values without those of parameters that do nothing beside the others (`core.acts`)."""
    left = dict(values)
    plain = [field for field in fields(cls) if field.role != "group"]
    while True:
        now = {field.name: left.get(field.name, field.default) for field in plain}
        vain = [field.name for field in plain if field.name in left and idle(field.acts, now) is not None]
        if not vain:
            return left
        for name in vain:
            del left[name]


def summary(cls: type) -> str:
    """The first line of a parameter class's docstring."""
    return (cls.__doc__ or "").strip().splitlines()[0]


def _describe(cls: type, attribute: attrs.Attribute, where: str) -> Field:
    meta = attribute.metadata
    common = {"name": attribute.name, "type": attribute.type, "help": meta["help"]}
    if meta["role"] == "group":
        if attribute.type is None or not attrs.has(attribute.type):
            raise TypeError(f"{where}: a group's type is a @params class, not {attribute.type!r}")
        return Field(role="group", default=None, **common)
    if meta["role"] == "slot":
        inner, many, optional = attribute.type, False, False
        if typing.get_origin(inner) is tuple:
            inner, many = typing.get_args(inner)[0], True
        elif is_union(inner):
            rest = [a for a in typing.get_args(inner) if a is not type(None)]
            inner, optional = rest[0], True
        kind = getattr(inner, "KIND", None)
        if kind is None:
            raise TypeError(f"{where}: a slot's type is a kind from core.kinds, not {attribute.type!r}")
        return Field(
            role="slot",
            default=meta["default"],
            kind=kind,
            piece=inner,
            many=many,
            optional=optional,
            inline=meta["inline"],
            identity=meta["identity"],
            **common,
        )
    if not _is_leaf(attribute.type):
        raise TypeError(f"{where}: {attribute.type!r} is no type a file or flag can spell")
    try:
        conditions = _conditions(cls, meta["acts"])
    except ValueError as error:
        raise TypeError(f"{where}: acts: {error}") from None
    return Field(
        role="knob",
        default=attribute.default,
        acts=conditions,
        unit=meta["unit"],
        source=meta["source"],
        decides=meta["decides"],
        identity=meta["identity"],
        bounds=meta["bounds"],
        **common,
    )


def is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _check_default(attribute: attrs.Attribute, where: str) -> None:
    if not _fits(attribute.default, attribute.type):
        raise TypeError(f"{where}: its default {attribute.default!r} is not {spell_type(attribute.type)}")
    try:
        _within(attribute, attribute.default)
    except ValueError as error:
        raise TypeError(f"{where}: its default is out of bounds: {error}") from None


def _fits(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is Literal:
        return any(value == option and type(value) is type(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(item, typing.get_args(hint)[0]) for item in value)
    if is_union(hint):
        return any(_fits(value, option) for option in typing.get_args(hint))
    return type(value) in ((int, float) if hint is float else (hint,))


def _is_leaf(hint: Any) -> bool:
    if hint in LEAF_TYPES or typing.get_origin(hint) is Literal:
        return True
    if typing.get_origin(hint) is tuple:
        args = typing.get_args(hint)
        return len(args) == 2 and args[1] is Ellipsis and _is_leaf(args[0])
    return is_union(hint) and all(a is type(None) or _is_leaf(a) for a in typing.get_args(hint))
