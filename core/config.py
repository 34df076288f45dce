"""From layers of choices to one resolved tree of parameters, each value with its whole chain of origins.

Layers, lowest first: a parameter's default, the preset of the chosen row, what the spoken name carries, the system's
recipe, configuration files, `CORE_*` variables, the command line. A name brings its preset and its pattern's values at
the layer that chose it: `--ffn moe4x2` beats `ffn.experts` of a file, `--ffn.experts` beats both.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from core.acts import Idle, spell
from core.choices import ConfigError, Layer, Rank, Resolved, Setting, Value, flatten, join, listed
from core.contract import absent, fit, refusals
from core.errors import UserError
from core.names import Bare, near, nearest
from core.params import Field, fields
from core.registry import Found, Registry, Row, installed
from core.structure import structure

DEFAULT, PRESET, NAME, GIVEN = (-1, 0), 1, 2, 3
_WORD = re.compile(r"[a-z][a-z0-9_.]*")
TOLD = 12
"""mistakes told at once; a wrong file can hold hundreds"""


def resolve(root: type, layers: Iterable[Layer], registry: Registry | None = None, row: Row | None = None) -> Resolved:
    """Resolve `root`, a `@params` class, from layers given lowest first; `row` is what it stands for, if anything.

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
    resolved = Resolved(
        root=tree, settings=attempt.settings, pieces=attempt.pieces, notes=tuple(dict.fromkeys(attempt.notes))
    )
    errors = list(dict.fromkeys(attempt.errors + refusals(resolved.settings, registry, attempt.pieces, row)))
    if errors:
        more = [f"and {len(errors) - TOLD} more mistakes"] if len(errors) > TOLD else []
        raise ConfigError("\n".join(errors[:TOLD] + more))
    return resolved


def resolve_part(kind: str, name: str, values: Mapping[str, Any]) -> Any:
    """One plugin with its slots, from keyword values; for library use."""
    registry = installed()
    found = registry.find(kind, name)
    where = f"{kind} {name}"
    given = {k: (v, where) for k, v in {**flatten(found.row.preset), **found.values, **values}.items()}
    return resolve(found.row.load(), [Layer(where, given)], registry, found.row).root


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
        self.chosen_at: dict[str, Rank] = {}
        self.inlined: set[str] = set()
        """first words of the keys that an inline slot brought"""
        self.errors: list[str] = []
        self.notes: list[str] = []
        self.pieces: dict[str, Any] = {}
        """what fills each slot, by the slot's path; None where something below it is wrong"""
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
        known = self.members.setdefault(path, [])
        for field in fields(cls):
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
        while True:
            try:
                return cls(**values)
            except Idle as error:
                if not self.fall_back(path, error, values):
                    key = join(path, error.name)
                    given = f"{spell(error.value)} {error.reason(f'{path}.' if path else '')}"
                    self.errors.append(f"{key}: {given} ({self.settings[key].origin})")
                    return None
            except ValueError as error:
                self.errors.append(self.blame(path, cls, error))
                return None

    def fall_back(self, path: str, error: Idle, values: dict[str, Any]) -> bool:
        """Put a value that does nothing back to its default, where a higher layer than the one that gave it says so."""
        key = join(path, error.name)
        setting = self.settings[key]
        deciding = max((self.settings[join(path, name)] for name in error.found), key=lambda s: s.chain[-1].rank)
        given, last = setting.chain[-1], deciding.chain[-1]
        if last.rank <= given.rank:
            return False
        reason = f"{deciding.path} is {spell(deciding.value)} ({last.origin})"
        if given.rank[1] != PRESET:
            self.notes.append(f"{key} = {spell(error.value)} ({given.origin}) is not used: {reason}")
        values[error.name] = setting.field.default
        link = Value(setting.field.default, f"default, as {reason}", last.rank)
        self.settings[key] = attrs.evolve(setting, value=setting.field.default, chain=(*setting.chain, link))
        return True

    def blame(self, path: str, cls: type, error: ValueError) -> str:
        """What a class says of its values together, and who gave those it names that are not defaults."""
        words = {join(path, word.rstrip(".")) for word in _WORD.findall(str(error))}
        knobs = [join(path, f.name) for f in fields(cls) if f.role == "knob"]
        named = [key for key in self.settings if key.partition("[")[0] in words]
        said = sorted({self.settings[key].origin for key in named or knobs})
        told = [o for o in said if not o.startswith("default")] or said
        return f"{path or cls.__name__}: {error} ({', '.join(told)})"

    def leaf(self, key: str, field: Field, cls: type, identity: bool) -> Any:
        chain = self.chain(key, attrs.NOTHING if field.required else field.default, f"default of {cls.__name__}")
        if field.default is None and len(chain) == 0:
            chain = [Value(None, f"default of {cls.__name__}", DEFAULT)]
        if not chain:
            self.errors.append(f"{key}: a value is needed ({field.help}). Give --{key} {field.spell()}")
            return None
        last = chain[-1]
        try:
            value = structure(last.value, field.type)
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
        base = path if field.inline else key
        if not chain:
            if not field.optional and not self.unfilled:  # a piece that failed might have chosen this one
                known = ", ".join(row.spoken for row in self.registry.rows(kind)) or "none installed"
                self.errors.append(f"{key}: none is chosen. Give --{key} NAME. Known: {known}")
            return None
        if field.many:
            return self.several(key, field, chain, identity, inside)
        try:
            found = [(link, self.find(kind, link, field)) for link in chain]
        except UserError as error:
            self.errors.append(str(error))
            self.unfilled.append(base)
            return None
        link, winner = found[-1]
        if winner is None:
            self.chosen_at[base] = link.rank
            self.members.setdefault(base, [])
            if default is not None:  # emptied on purpose, which a reader of the configuration must be told
                self.settings[key] = Setting(path=key, field=field, value=None, chain=tuple(chain), identity=identity)
            return None
        start = link
        for earlier, other in reversed(found):
            if other is None or other.row.qualified != winner.row.qualified:
                break
            start = earlier
            for name, value in other.values.items():
                self.say(join(base, name), Value(value, f"name {earlier.value}", (earlier.rank[0], NAME), base))
        if winner.warning:
            self.notes.append(winner.warning)
        for name, value in flatten(winner.row.preset).items():
            self.say(join(base, name), Value(value, f"preset of {winner.row.name}", (start.rank[0], PRESET), base))
        self.settings[key] = Setting(
            path=key, field=field, value=winner.row.name, chain=tuple(chain), row=winner.row, identity=identity
        )
        self.chosen_at[base] = max(start.rank, self.chosen_at.get(base, DEFAULT))
        try:
            cls = winner.row.load()
            if cls in inside:
                raise UserError(f"{winner.row.name!r} would stand inside itself")
            fit(winner.row, cls, field, self.settings.get("system"), self.registry)
        except UserError as error:
            self.errors.append(f"{key}: {error} ({link.origin})")
            self.unfilled.append(base)
            return None
        if field.inline:
            self.inlined |= {f.name for f in fields(cls)}
        self.pieces[key] = self.node(base, cls, identity, inside)
        return self.pieces[key]

    def several(
        self, key: str, field: Field, chain: list[Value], identity: bool, inside: tuple[type, ...]
    ) -> tuple | None:
        last, kind = chain[-1], typing.cast(str, field.kind)
        try:
            names = listed(last.value)
        except UserError as error:
            self.errors.append(f"{key}: {error} ({last.origin})")
            return None
        if not names:  # an empty list is a choice as well
            self.settings[key] = Setting(path=key, field=field, value=(), chain=tuple(chain), identity=identity)
        made = []
        for i, name in enumerate(names):
            at = f"{key}[{i}]"
            try:
                found = self.registry.find(kind, name, "" if last.rank == DEFAULT else last.origin)
            except UserError as error:
                self.errors.append(str(error))
                self.unfilled.append(at)
                continue
            if found.warning:
                self.notes.append(found.warning)
            for values, origin, weight in (
                (flatten(found.row.preset), f"preset of {found.row.name}", PRESET),
                (found.values, f"name {name}", NAME),
            ):
                for k, v in values.items():
                    self.say(f"{at}.{k}", Value(v, origin, (last.rank[0], weight), at))
            self.settings[at] = Setting(
                path=at, field=field, value=found.row.name, chain=tuple(chain), row=found.row, identity=identity
            )
            try:
                cls = found.row.load()
                if cls in inside:
                    raise UserError(f"{found.row.name!r} would stand inside itself")
                fit(found.row, cls, field, self.settings.get("system"), self.registry)
                self.pieces[at] = self.node(at, cls, identity, inside)
                made.append(self.pieces[at])
            except UserError as error:
                self.errors.append(f"{key}: {error} ({last.origin})")
                self.unfilled.append(at)
        return tuple(made)

    def find(self, kind: str, link: Value, field: Field) -> Found | None:
        if not isinstance(link.value, str):
            raise UserError(f"{link.origin}: {kind} is chosen by name, not by {link.value!r}")
        if isinstance(link.value, Bare):
            known = ", ".join(row.spoken for row in self.registry.rows(kind))
            raise UserError(f"{link.origin}: a name is missing. Known: {known}")
        if field.optional and link.value == "none" and all(row.name != "none" for row in self.registry.rows(kind)):
            return None
        system = self.settings.get("system")
        return self.registry.find(
            kind, link.value, "" if link.rank == DEFAULT else link.origin, system=str(system.value) if system else None
        )

    def leftovers(self) -> list[str]:
        """Keys that nobody read: no knob and no slot of the tree is called so."""
        read = {join(path, f.name) for path, members in self.members.items() for f in members if f.role != "group"}
        return [key for key in self.chains if key not in read]

    def expand(self) -> list[Layer] | None:
        """Layers with abbreviated keys (`gate`) written out (`attention.gate`), or None when there are none."""
        renames: dict[str, str] = {}
        for key in self.leftovers():
            head = key.partition(".")[0]
            homes = [] if any(f.name == head for f in self.members.get("", [])) else self.homes(head)
            if len(homes) == 1:
                renames[head] = homes[0]
        if not renames:
            return None

        layers = []
        for layer in self.layers:
            entries: dict[str, tuple[Any, str]] = {}
            for key, said in layer.entries.items():
                head, dot, rest = key.partition(".")
                full = renames.get(head, head) + dot + rest
                if full in entries and entries[full][0] != said[0]:
                    (before, there), (now, here) = entries[full], said
                    raise ConfigError(
                        f"{full} is given twice, as {before!r} ({there}) and as {now!r} ({here}); keep one"
                    )
                entries[full] = said
            layers.append(attrs.evolve(layer, entries=entries))
        return layers

    def homes(self, word: str) -> list[str]:
        """Slots called `word`, else slots of the kind `word`; empty ones too."""
        slots = {
            join(path, f.name): f
            for path, members in self.members.items()
            for f in members
            if f.role == "slot" and "[" not in path
        }
        by_name = [path for path in slots if path.rpartition(".")[2] == word]
        return by_name or [path for path, f in slots.items() if f.kind == word]

    def judge_leftovers(self) -> None:
        """What nobody read is a mistake, unless it belonged to a piece that a higher layer replaced."""
        for key in self.leftovers():
            link = max(self.chains[key], key=lambda v: v.rank)
            home = key
            while home and home not in self.members:
                home = home.rpartition(".")[0]
            if any(not at or not home or home == at or home.startswith(f"{at}.") for at in self.unfilled):
                continue
            inline = home.partition(".")[0] in self.inlined
            above = [at for at in self.chosen_at if (inline if not at else at == home or home.startswith(f"{at}."))]
            if home and any(self.replaced(at, link) for at in above):
                if link.rank[1] != PRESET:
                    told = f"{key} = {link.value} ({link.origin}) is not used"
                    self.notes.append(f"{told}: {home} was replaced by a later choice")
                continue
            self.errors.append(f"{self.unknown(key, home)} ({link.origin})")

    def replaced(self, at: str, link: Value) -> bool:
        """Whether the piece at `at` was chosen after `link` was said: by a higher layer, or over a preset or name."""
        below = link.base is not None and at != link.base and (not link.base or at.startswith(f"{link.base}."))
        return self.chosen_at[at] > link.rank if below else self.chosen_at[at][0] > link.rank[0]

    def unknown(self, key: str, home: str) -> str:
        word = key[len(home) :].lstrip(".").partition(".")[0]
        owner = next((s.row for p, s in self.settings.items() if p == home and s.row), None)
        forwards = owner.forwards if owner is not None else {}
        own = [f.name for f in self.members.get(home, [])]
        options = [*forwards, *own]
        if key.endswith("]"):
            whole = key.partition("[")[0]
            return f"{key}: one item of a list cannot be named anew. Give the whole list: --{whole} NAME,NAME"
        if home and key == home:
            return f"{key} is a table. Give its parameters one by one: {', '.join(f'--{key}.{o}' for o in own)}"
        homes = [] if home else self.homes(word)
        if len(homes) > 1:
            ways = ", ".join(f"--{h}" for h in homes)
            return f"{key}: several slots could be meant. Say which: {ways}"
        reason = None if homes else absent(word, {p: s for p, s in self.settings.items() if home in ("", p)})
        if reason:
            return f"{key}: {reason}"
        if word in forwards and owner is not None:
            return f"{key}: {owner.name} has it from a piece below. Give --{join(home, forwards[word])}"
        flags = {flag.strip("-").replace("-", "_"): flag.strip("-") for layer in self.layers for flag in layer.flags}
        full = flags | {path.rpartition(".")[2]: path for path in self.settings if "[" not in path}
        close = word if word in full else None if home else nearest(word, full)
        aside = not home and word not in full and nearest(word, [*options, *flags]) in flags
        hint = "" if aside else near(word, options)  # a flag of the verb may be nearer than any parameter
        hint = hint or (f" Did you mean --{full[close]}?" if close else "")
        who = f"{owner.name!r} takes {', '.join(options) or 'no parameters'}" if owner is not None else ""
        who = who or f"Known here: {', '.join(options)}"
        return f"{key}: unknown parameter.{hint} {who}"
