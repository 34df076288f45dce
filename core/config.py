"""From layers of choices to one resolved tree of parameters, each value with its whole chain of origins.

Layers, lowest first: a parameter's default, the preset of the chosen row, what the spoken name carries, the system's
recipe, configuration files, `CORE_*` variables, the command line. A name brings its preset and its pattern's values at
the layer that chose it: `--ffn moe4x2` beats `ffn.experts` of a file, `--ffn.experts` beats both.
"""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import attrs
import cattrs

from core.contract import absent, refusals
from core.errors import UserError
from core.names import Text, near
from core.params import Field, fields, spell_type
from core.registry import Found, Registry, Row, installed

Rank = tuple[int, int]
DEFAULT, PRESET, NAME, GIVEN = (-1, 0), 0, 1, 2


class ConfigError(UserError):
    """One or several wrong values; each line names the parameter, what was wrong and who said it."""


@attrs.frozen
class Value:
    """One link of a chain: what was said, by whom, and how much it weighs."""

    value: Any
    origin: str
    rank: Rank


@attrs.frozen
class Layer:
    """Choices of one source as flat dotted keys: `{"attention.heads": (4, "epi.toml:3")}`."""

    name: str
    entries: Mapping[str, tuple[Any, str]]


@attrs.frozen(kw_only=True)
class Setting:
    """One resolved parameter or slot."""

    path: str
    field: Field
    value: Any
    chain: tuple[Value, ...]
    """lowest first; the last one won"""
    row: Row | None = None
    """the row that fills a slot"""
    identity: bool = True
    """False where it, or a slot above it, cannot change numbers"""

    @property
    def origin(self) -> str:
        return self.chain[-1].origin


@attrs.frozen(kw_only=True)
class Resolved:
    """The tree as an object, and every value of it by dotted path."""

    root: Any
    settings: Mapping[str, Setting]
    notes: tuple[str, ...] = ()
    """what the user should hear: deprecated names, values that fell away with a replaced piece"""

    def slots(self) -> dict[str, Setting]:
        return {path: s for path, s in self.settings.items() if s.field.role == "slot"}


def resolve(root: type, layers: Iterable[Layer], registry: Registry | None = None) -> Resolved:
    """Resolve `root`, a `@params` class, from layers given lowest first.

    Raises:
        ConfigError: every mistake found, a line each.
    """
    registry = registry or installed()
    layers = list(layers)
    while True:
        attempt = _Attempt(registry, layers)
        tree = attempt.node("", root, True, ())
        renamed = attempt.expand()
        if renamed is None:
            break
        layers = renamed
    attempt.judge_leftovers()
    resolved = Resolved(root=tree, settings=attempt.settings, notes=tuple(dict.fromkeys(attempt.notes)))
    errors = attempt.errors + refusals(resolved.settings)
    if errors:
        raise ConfigError("\n".join(dict.fromkeys(errors)))
    return resolved


def resolve_part(kind: str, name: str, values: Mapping[str, Any]) -> Any:
    """One plugin with its slots, from keyword values; for library use."""
    registry = installed()
    found = registry.find(kind, name)
    where = f"{kind} {name}"
    given = {k: (v, where) for k, v in {**_flat(found.row.preset), **found.values, **values}.items()}
    return resolve(found.row.load(), [Layer(where, given)], registry).root


class _Attempt:
    """One pass over the tree. Abbreviated keys are expanded after a pass, and the pass is made again."""

    def __init__(self, registry: Registry, layers: list[Layer]) -> None:
        self.registry = registry
        self.layers = layers
        self.chains: dict[str, list[Value]] = {}
        for i, layer in enumerate(layers):
            for key, (value, origin) in layer.entries.items():
                self.say(key.removesuffix(".name"), Value(value, origin, (i, GIVEN)))
        self.settings: dict[str, Setting] = {}
        self.members: dict[str, list[Field]] = {}
        self.chosen_at: dict[str, int] = {}
        self.errors: list[str] = []
        self.notes: list[str] = []
        self.unfilled: list[str] = []
        """where a slot's piece is unknown, and with it what may be said below it"""

    def say(self, key: str, value: Value) -> None:
        self.chains.setdefault(key, []).append(value)

    def chain(self, key: str, default: Any, origin: str) -> list[Value]:
        links = [] if default is attrs.NOTHING or default is None else [Value(default, origin, DEFAULT)]
        return links + sorted(self.chains.get(key, []), key=lambda v: v.rank)

    def node(self, path: str, cls: type, identity: bool, inside: tuple[type, ...]) -> Any:
        """An instance of `cls` from what was said below `path`; None where something below it is wrong."""
        values, before = {}, len(self.errors)
        for field in fields(cls):
            known = self.members.setdefault(path, [])
            if any(other.name == field.name for other in known):
                raise TypeError(f"{cls.__qualname__}.{field.name} collides with the field of that name beside it")
            known.append(field)
            key = f"{path}.{field.name}" if path else field.name
            if field.role == "group":
                values[field.name] = self.node(key, field.type, identity, inside)
            elif field.role == "slot":
                values[field.name] = self.slot(path, key, field, identity, (*inside, cls))
            else:
                values[field.name] = self.leaf(key, field, cls, identity)
        if len(self.errors) > before:
            return None
        try:
            return cls(**values)
        except ValueError as error:
            said = sorted({s.origin for f in fields(cls) if f.role == "knob" for s in [self.settings[_join(path, f.name)]]})
            told = [o for o in said if not o.startswith("default")] or said
            self.errors.append(f"{path or cls.__name__}: {error} ({', '.join(told)})")
            return None

    def leaf(self, key: str, field: Field, cls: type, identity: bool) -> Any:
        chain = self.chain(key, attrs.NOTHING if field.required else field.default, f"default of {cls.__name__}")
        if field.default is None and len(chain) == 0:
            chain = [Value(None, f"default of {cls.__name__}", DEFAULT)]
        if not chain:
            self.errors.append(f"{key}: a value is needed ({field.help}). Give --{key} {field.spell()}")
            return None
        last = chain[-1]
        try:
            value = structure(last.value, field.type) if last.rank != DEFAULT else last.value
            attrs.fields_dict(cls)[field.name].validator(None, attrs.fields_dict(cls)[field.name], value)  # type: ignore[misc]
        except (ValueError, TypeError) as error:
            text = str(error).removeprefix(f"{field.name} ")
            self.errors.append(f"{key}: {text} ({last.origin})")
            return None
        self.settings[key] = Setting(
            path=key, field=field, value=value, chain=tuple(chain), identity=identity and field.identity
        )
        return value

    def slot(self, path: str, key: str, field: Field, identity: bool, inside: tuple[type, ...]) -> Any:
        kind = typing.cast(str, field.kind)
        default = field.default if field.default is not None or field.optional else self.registry.default(kind)
        chain = self.chain(key, default, f"default of {inside[-1].__name__}")
        identity = identity and field.identity
        if not chain:
            if field.optional:
                return None
            known = ", ".join(row.spoken for row in self.registry.rows(kind))
            self.errors.append(f"{key}: choose a {kind}. Known: {known}")
            return None
        if field.many:
            return self.several(key, field, chain, identity)
        try:
            found = [(link, self.find(kind, link, field)) for link in chain]
        except UserError as error:
            self.errors.append(str(error))
            self.unfilled.append(path if field.inline else key)
            return None
        link, winner = found[-1]
        if winner is None:
            return None
        start = link
        base = path if field.inline else key
        for earlier, other in reversed(found):
            if other is None or other.row.qualified != winner.row.qualified:
                break
            start = earlier
            for name, value in other.values.items():
                self.say(_join(base, name), Value(value, f"name {earlier.value}", (earlier.rank[0], NAME)))
        if winner.warning:
            self.notes.append(winner.warning)
        for name, value in _flat(winner.row.preset).items():
            self.say(_join(base, name), Value(value, f"preset of {winner.row.name}", (start.rank[0], PRESET)))
        self.settings[key] = Setting(
            path=key, field=field, value=winner.row.name, chain=tuple(chain), row=winner.row, identity=identity
        )
        self.chosen_at[base] = max(start.rank[0], self.chosen_at.get(base, -1))
        try:
            cls = winner.row.load()
        except UserError as error:
            self.errors.append(f"{key}: {error} ({link.origin})")
            self.unfilled.append(base)
            return None
        if cls in inside:
            self.errors.append(f"{key}: {winner.row.name!r} would stand inside itself ({link.origin})")
            return None
        return self.node(base, cls, identity, inside)

    def several(self, key: str, field: Field, chain: list[Value], identity: bool) -> tuple | None:
        last, kind = chain[-1], typing.cast(str, field.kind)
        names = _listed(last.value)
        made = []
        for i, name in enumerate(names):
            try:
                found = self.registry.find(kind, name, last.origin)
            except UserError as error:
                self.errors.append(str(error))
                continue
            at = f"{key}[{i}]"
            for k, v in {**_flat(found.row.preset), **found.values}.items():
                self.say(f"{at}.{k}", Value(v, f"name {name}", last.rank))
            self.settings[at] = Setting(
                path=at, field=field, value=found.row.name, chain=tuple(chain), row=found.row, identity=identity
            )
            try:
                made.append(self.node(at, found.row.load(), identity, ()))
            except UserError as error:
                self.errors.append(f"{key}: {error} ({last.origin})")
        return tuple(made)

    def find(self, kind: str, link: Value, field: Field) -> Found | None:
        if not isinstance(link.value, str):
            raise UserError(f"{link.origin}: a {kind} is chosen by name, not by {link.value!r}")
        if field.optional and link.value == "none" and all(row.name != "none" for row in self.registry.rows(kind)):
            return None
        return self.registry.find(kind, link.value, "" if link.rank == DEFAULT else link.origin)

    def leftovers(self) -> list[str]:
        listed = tuple(f"{path}[" for path, members in self._lists())
        return [k for k in self.chains if k not in self.settings and k not in self._quiet() and not k.startswith(listed)]

    def _lists(self) -> Iterator[tuple[str, Field]]:
        for path, members in self.members.items():
            for field in members:
                if field.many:
                    yield _join(path, field.name), field

    def _quiet(self) -> set[str]:
        """Keys that were read and left no setting: an empty optional slot, a list, something already reported."""
        return {_join(path, f.name) for path, members in self.members.items() for f in members if f.role != "group"}

    def expand(self) -> list[Layer] | None:
        """Layers with abbreviated keys (`gate`) written out (`attention.gate`), or None when there are none."""
        renames: dict[str, str] = {}
        for key in self.leftovers():
            head = key.partition(".")[0]
            if any(f.name == head for f in self.members.get("", [])):
                continue
            homes = self.homes(head)
            if len(homes) == 1:
                renames[head] = homes[0]
        if not renames:
            return None

        def full(key: str) -> str:
            head, dot, rest = key.partition(".")
            return renames.get(head, head) + dot + rest

        return [Layer(la.name, {full(k): v for k, v in la.entries.items()}) for la in self.layers]

    def homes(self, word: str) -> list[str]:
        """Slots called `word`, else slots of the kind `word`."""
        slots = {path: s for path, s in self.settings.items() if s.field.role == "slot" and "[" not in path}
        by_name = [path for path in slots if path.rpartition(".")[2] == word]
        return by_name or [path for path, s in slots.items() if s.field.kind == word]

    def judge_leftovers(self) -> None:
        """What nobody read is a mistake, unless it belonged to a piece that a higher layer replaced."""
        for key in self.leftovers():
            link = max(self.chains[key], key=lambda v: v.rank)
            home = key
            while home and home not in self.members:
                home = home.rpartition(".")[0]
            if any(not at or not home or home == at or home.startswith(f"{at}.") for at in self.unfilled):
                continue
            above = [at for at in self.chosen_at if at == home or home.startswith(f"{at}.") or not at]
            if home and any(self.chosen_at[at] > link.rank[0] for at in above):
                self.notes.append(f"{key} = {link.value} ({link.origin}) is not used: {home} was replaced by a later choice")
                continue
            self.errors.append(f"{self.unknown(key, home)} ({link.origin})")

    def unknown(self, key: str, home: str) -> str:
        word = key[len(home) :].lstrip(".").partition(".")[0]
        if not home:
            homes = self.homes(word)
            if len(homes) > 1:
                ways = ", ".join(f"--{h}" for h in homes)
                return f"{key}: several slots could be meant. Say which: {ways}"
            reason = absent(word, self.settings)
            if reason:
                return f"{key}: {reason}"
        options = [f.name for f in self.members.get(home, [])]
        full = {path.rpartition(".")[2]: path for path in self.settings if "[" not in path}
        hint = near(word, options)
        if not hint and word in full:
            hint = f" Did you mean --{full[word]}?"
        hint = hint or near(word, full)
        owner = next((s.value for p, s in self.settings.items() if p == home and s.row), None)
        who = f"{owner!r} takes {', '.join(options)}" if owner else f"Known here: {', '.join(options)}"
        return f"{key}: unknown parameter.{hint} {who}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _flat(table: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys; `name` inside a table names the table itself."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, _join(path, key))
        elif key == "name" and path:
            flat[path] = value
        else:
            flat[_join(path, key)] = value
    return flat


flatten = _flat


def _listed(value: Any) -> list[str]:
    if isinstance(value, str):
        from core.names import _split

        return [piece.strip() for piece in _split(value.strip().removeprefix("[").removesuffix("]"), value)]
    return [str(v) for v in value]


def structure(value: Any, hint: Any) -> Any:
    """`value` as the declared type, strictly: no text becomes a number, no number a flag.

    What a user typed (`Text`) is read as TOML first, unless the parameter is a text itself.

    Raises:
        ValueError: the value is of another type.
    """
    if isinstance(value, Text):
        value = _typed(value, hint)
    try:
        return _CONVERTER.structure(value, hint)
    except (cattrs.errors.BaseValidationError, TypeError, ValueError) as error:
        if isinstance(error, cattrs.errors.BaseValidationError):
            error = error.exceptions[0]  # type: ignore[assignment]
        text = str(error)
        raise ValueError(text if text.startswith("expected") else f"expected {spell_type(hint)}, got {value!r}") from None


def _typed(text: Text, hint: Any) -> Any:
    if hint is str or typing.get_origin(hint) is Literal:
        return str(text)
    optional = type(None) in typing.get_args(hint)
    if optional and text == "none":
        return None
    if optional and str in typing.get_args(hint):
        return str(text)
    try:
        value = tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        value = str(text)
    if typing.get_origin(hint) is tuple and not isinstance(value, list):
        inner = typing.get_args(hint)[0]
        return [_typed(Text(piece.strip()), inner) for piece in str(text).split(",") if piece.strip()]
    return value


def _strict() -> cattrs.Converter:
    converter = cattrs.Converter(detailed_validation=False)

    def exactly(kind: type, *accepted: type) -> None:
        def hook(value: Any, _: Any) -> Any:
            if type(value) not in accepted:
                raise ValueError(f"expected {spell_type(kind)}, got {value!r}")
            return kind(value)

        converter.register_structure_hook(kind, hook)

    def choice(value: Any, hint: Any) -> Any:
        options = typing.get_args(hint)
        if not any(value == o and type(value) is type(o) for o in options):
            raise ValueError(f"expected {spell_type(hint)}, got {value!r}.{near(str(value), map(str, options))}")
        return value

    def sequence(value: Any, hint: Any) -> tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"expected {spell_type(hint)}, got {value!r}")
        return tuple(converter.structure(v, typing.get_args(hint)[0]) for v in value)

    def union(value: Any, hint: Any) -> Any:
        if value is None:
            return None
        inner = [a for a in typing.get_args(hint) if a is not type(None)]
        return converter.structure(value, inner[0])

    exactly(int, int)
    exactly(float, float, int)
    exactly(bool, bool)
    exactly(str, str)
    converter.register_structure_hook_func(lambda t: typing.get_origin(t) is Literal, choice)
    converter.register_structure_hook_func(lambda t: typing.get_origin(t) is tuple, sequence)
    converter.register_structure_hook_func(lambda t: type(None) in typing.get_args(t), union)
    return converter


_CONVERTER = _strict()
