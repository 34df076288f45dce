"""What is installed: manifests become rows, and nothing is imported to list them.

Built-ins and third parties take the same road: an entry point in group `core.manifest` whose value is
`package:registry.toml`. The package is located, not imported.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import attrs

from core.errors import UserError
from core.names import Bare, Spoken, match_pattern, near, parse
from core.rows import BUILTIN, KINDS, Broken, Found, Origin, Row, Verb, read_row, read_verb

API = 1
GROUP = "core.manifest"
EXTENSIBLE = ("data", "evaluate")
"""verbs of the command that take subcommands from manifests"""


@attrs.define
class Registry:
    """All rows by (kind, name); broken manifests and clashes are kept as data."""

    prefer: Mapping[str, str] = attrs.field(factory=dict)
    """`gate.swish` -> distribution"""
    broken: list[Broken] = attrs.field(factory=list)
    hooks: list[tuple[Origin, str]] = attrs.field(factory=list)
    """(distribution, module) of every manifest that brings callbacks"""
    verbs: dict[str, dict[str, Verb]] = attrs.field(factory=dict)
    """verb -> its subcommands by name, from `[verbs.VERB.NAME]` of manifests"""
    _rows: dict[tuple[str, str], list[Row]] = attrs.field(factory=dict)

    def add(self, doc: Mapping[str, Any], origin: Origin) -> None:
        """Add a manifest. Its faults are recorded in `broken`, never raised."""
        if doc.get("api") != API:
            fix = "set `api = 1` at its top" if "api" not in doc else f"install a version made for api {API}"
            self.broken.append(
                Broken(str(origin), f"its manifest says api = {doc.get('api')}; this core speaks {API}: {fix}")
            )
            return
        for kind, table in doc.items():
            if kind == "api":
                continue
            if kind == "hooks":
                module = table.get("module") if isinstance(table, dict) else None
                if isinstance(module, str):
                    self.hooks.append((origin, module))
                else:
                    self.broken.append(Broken(str(origin), '[hooks] must read module = "package.module"'))
                continue
            if kind == "verbs":
                self._add_verbs(table, origin)
                continue
            if kind not in KINDS or not isinstance(table, dict):
                self.broken.append(Broken(str(origin), f"[{kind}] is no kind.{near(kind, KINDS)}"))
                continue
            for name, values in table.items():
                try:
                    row = read_row(kind, name, values, origin)
                except ValueError as error:
                    self.broken.append(Broken(str(origin), f"[{kind}.{name}] {error}"))
                else:
                    self._rows.setdefault((kind, name), []).append(row)

    def _add_verbs(self, table: Any, origin: Origin) -> None:
        """Subcommands; the first manifest that claims a name keeps it, and the built-in comes first."""
        for verb, subcommands in table.items() if isinstance(table, dict) else ():
            if verb not in EXTENSIBLE or not isinstance(subcommands, dict):
                known = ", ".join(EXTENSIBLE)
                self.broken.append(Broken(str(origin), f"[verbs.{verb}] takes no subcommands; what does: {known}"))
                continue
            for name, values in subcommands.items():
                taken = self.verbs.setdefault(verb, {}).get(name)
                try:
                    if taken is not None:
                        raise ValueError(f"is brought by {taken.origin} already")
                    self.verbs[verb][name] = read_verb(name, values, origin)
                except ValueError as error:
                    self.broken.append(Broken(str(origin), f"[verbs.{verb}.{name}] {error}"))

    def kinds(self) -> list[str]:
        """Kinds that have rows, in the order of `KINDS`."""
        have = {kind for kind, _ in self._rows}
        return [kind for kind in KINDS if kind in have]

    def rows(self, kind: str) -> list[Row]:
        """Every row of a kind that a bare name reaches, deprecated ones left out, in order of the manifests.

        Raises:
            UserError: no such kind.
        """
        if kind not in KINDS:
            raise UserError(f"no kind is called {kind!r}.{near(kind, KINDS)} Kinds: {', '.join(KINDS)}.")
        chosen = (self._choose(kind, name) for k, name in self._rows if k == kind)
        return [row for row in chosen if row is not None and row.deprecated is None]

    def brought(self, kind: str, name: str, owner: str) -> bool:
        """Whether a distribution brings a row of this kind and name."""
        return any(row.origin.name == owner for row in self._rows.get((kind, name), []))

    def disputed(self, kind: str) -> list[Row]:
        """Rows that only their full names reach, as several distributions claim the bare one."""
        return [row for k, _, claims, winner in self.clashes() if k == kind and winner is None for row in claims]

    def default(self, kind: str) -> str | None:
        """The name that a kind's row declares as default."""
        return next((row.name for row in self.rows(kind) if row.default), None)

    def clashes(self) -> list[tuple[str, str, list[Row], Row | None]]:
        """(kind, name, claims, winner) wherever several distributions claim one name."""
        return [(k, n, rows, self._choose(k, n)) for (k, n), rows in self._rows.items() if len(rows) > 1]

    def find(
        self, kind: str, name: str, where: str = "", replaced: tuple[str, ...] = (), system: str | None = None
    ) -> Found:
        """The row that a spoken name stands for, and the values that the name carries.

        Args:
            kind: one of `KINDS`.
            name: plain, pattern, call, qualified, or a path with a known ending.
            where: who said the name (`CLI --ffn`, `epi.toml:3`), for the error.
            replaced: deprecated names that led here.
            system: the name of the system, if one is chosen: a file is opened by its own reader, if it has one.

        Raises:
            UserError: no such name (near matches are listed), an unsettled clash, or deprecated names that lead in a
                circle.
        """
        at = f"{where}: " if where else ""
        self.rows(kind)
        by_file = self._by_file(kind, name, at, system)
        if by_file is not None:
            return by_file
        try:
            spoken = parse(name)
        except UserError as error:
            raise UserError(f"{at}{error}") from None
        row, values = self._match(kind, spoken, at)
        if row is None:
            raise UserError(at + self._unknown(kind, name, spoken))
        values |= spoken.args
        if row.deprecated is None:
            return Found(row, row.meant(values))
        if row.name in replaced:
            raise UserError(
                f"{at}{kind} {row.name!r} is deprecated in favour of itself ({row.origin}); tell its authors"
            )
        found = self.find(kind, row.deprecated, where, (*replaced, row.name))
        text = f"{at}{kind} {row.name!r} is deprecated; use {row.deprecated!r}"
        return Found(found.row, found.values | found.row.meant(values), text)

    def unknown(self, said: Iterable[tuple[str, Any, str]]) -> list[str]:
        """What is wrong with the names among some choices: (key, value, origin) each; keys that are no kind are left
        to whoever knows what they mean."""
        wrong = []
        for key, value, origin in said:
            kind = key.removesuffix(".name")
            if kind not in KINDS or isinstance(value, Bare) or value in ("", "none"):
                continue
            if not isinstance(value, str):
                if not isinstance(value, (list, tuple)):
                    wrong.append(f"{origin}: {kind} is chosen by name, not by {value!r}")
                continue
            try:
                self.find(kind, value, origin)
            except UserError as error:
                wrong.append(str(error))
        return wrong

    def _by_file(self, kind: str, name: str, at: str, system: str | None) -> Found | None:
        text = name.strip()
        # Stable, so that among equals the first row wins: the system's own reader, one of no system, any other.
        for row in sorted(
            self.rows(kind), key=lambda row: 0 if row.system == system else 1 if row.system is None else 2
        ):
            if any(text.lower().endswith(ending) for ending in row.files):
                return Found(row, {"path": str(Path(_expanded(text, at)).expanduser().absolute())})
        if (kind, text) not in self._rows and not text.endswith(")"):
            by_folder = self._by_folder(kind, text, at)
            if by_folder is not None:
                return by_folder
        endings = sorted({ending for row in self.rows(kind) for ending in row.files})
        if endings and not text.endswith(")") and (Path(text).suffix or text.startswith((".", "/", "~"))):
            raise UserError(f"{at}no {kind} reads {text!r}: files must end in {', '.join(endings)}")
        return None

    def _by_folder(self, kind: str, text: str, at: str) -> Found | None:
        rows = [row for row in self.rows(kind) if row.holds]
        if not rows or not text:
            return None
        folder = Path(_expanded(text, at)).expanduser()
        if not folder.is_dir():
            return None
        for row in rows:
            if all((folder / name).is_file() for name in row.holds):
                return Found(row, {"path": str(folder.absolute())})
        wanted = "; ".join(f"{row.name} reads a folder that holds {' and '.join(row.holds)}" for row in rows)
        raise UserError(f"{at}no {kind} reads the folder {text!r}: {wanted}")

    def _match(self, kind: str, spoken: Spoken, at: str) -> tuple[Row | None, dict[str, Any]]:
        if spoken.qualifier is not None:
            for claim in self._rows.get((kind, spoken.head), []):
                if claim.origin.name == canonical(spoken.qualifier):
                    return claim, {}
        elif (kind, spoken.head) in self._rows:
            row = self._choose(kind, spoken.head)
            if row is None:
                claims = [r.qualified for r in self._rows[kind, spoken.head]]
                raise UserError(
                    f"{at}{kind} {spoken.head!r} is claimed by {' and '.join(claims)}. Say which by its full name, or "
                    f'put `[prefer]` with `{kind}.{spoken.head} = "{claims[0].partition("/")[0]}"` into {user_config()}'
                )
            return row, {}
        for (k, _), rows in self._rows.items():
            for row in rows if k == kind else ():
                if row.pattern and (spoken.qualifier is None or row.origin.name == canonical(spoken.qualifier)):
                    values = match_pattern(row.pattern, spoken.head)
                    if values is not None:
                        return row, values
        return None, {}

    def _unknown(self, kind: str, name: str, spoken: Spoken) -> str:
        rows = self.rows(kind)
        if spoken.qualifier is not None:
            names = [r.qualified for (k, _), claims in self._rows.items() if k == kind for r in claims]
            hint = near(f"{spoken.qualifier}/{spoken.head}", names)
        else:
            names = [option for row in rows for option in {row.name, row.spoken}]
            hint = near(spoken.head, names)
        if not hint:
            elsewhere = [k for k, n in self._rows if n == spoken.head and k != kind]
            hint = f" That is a name of kind {elsewhere[0]!r}." if elsewhere else ""
        known = ", ".join(row.spoken for row in rows) or "none installed"
        if name.strip() == "none":
            return (
                f"no {kind} is called 'none': where a piece may be left out, that says there is none. Known: {known}. "
                f"`core list {kind}` says what each is."
            )
        return f"no {kind} is called {name!r}.{hint} Known: {known}. `core list {kind}` says what each is."

    def _choose(self, kind: str, name: str) -> Row | None:
        """Who owns a bare name: the preferred, else the built-in, else the only claimant, else nobody."""
        rows = self._rows[kind, name]
        wanted = self.prefer.get(f"{kind}.{name}", BUILTIN)
        for row in rows:
            if row.origin.name == canonical(wanted):
                return row
        return rows[0] if len(rows) == 1 else None


def canonical(name: str) -> str:
    """The name of a distribution as installers compare it: `Acme_Gates` is `acme-gates` (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def discover(points: Iterable[EntryPoint] | None = None, prefer: Mapping[str, str] | None = None) -> Registry:
    """Read every installed manifest, the built-in first, then distributions by name."""
    registry = Registry(prefer=prefer if prefer is not None else user_preferences())
    seen: set[tuple[str, str]] = set()
    found = [(_dist(point), point) for point in (entry_points(group=GROUP) if points is None else points)]
    if not any(origin.name == BUILTIN for origin, _ in found):
        # A checkout that is on the path and not installed has no entry point of its own.
        found.append((Origin(BUILTIN, "0+checkout"), EntryPoint("builtin", "core:registry.toml", GROUP)))
    for origin, point in sorted(found, key=lambda f: (f[0].name != BUILTIN, f[0].name, f[1].name)):
        if (origin.name, point.value) in seen:  # an editable install can announce itself twice
            continue
        seen.add((origin.name, point.value))
        try:
            registry.add(tomllib.loads(manifest_path(point.value).read_text("utf-8")), origin)
        except Exception as error:  # noqa: BLE001 - one broken manifest must not hide the others
            registry.broken.append(Broken(str(origin), f"{point.value}: {error or type(error).__name__}"))
    return registry


def manifest_path(value: str) -> Path:
    """Where an entry point's manifest lies; a top-level package is located without being imported.

    Raises:
        ValueError: the value is not `package:file`.
        FileNotFoundError: no such package, or no such file in it.
    """
    package, colon, filename = value.partition(":")
    if not colon or not filename or "." in package:
        raise ValueError("an entry point must read package:registry.toml with a top-level package")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"package {package!r} is not importable")
    root = Path(next(iter(spec.submodule_search_locations)))
    for path in (root / filename, root.parent / filename):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{filename} is missing in {root}")


def _dist(point: EntryPoint) -> Origin:
    name, number = (point.dist.name, point.dist.version) if point.dist is not None else (None, None)
    return Origin(canonical(name or "unknown"), number or "0")  # metadata that lost its name or version gives None


def user_config() -> Path:
    """The user's own settings: `CORE_CONFIG`, else `cellcore/config.toml` in the configuration folder."""
    given = os.environ.get("CORE_CONFIG")
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(given) if given else Path(base).expanduser() / "cellcore" / "config.toml"


def user_preferences() -> dict[str, str]:
    """`[prefer]` of the user's settings, flattened: `{"gate.swish": "acme-gates"}`.

    Raises:
        UserError: the file is not TOML, or an entry is not a table of texts.
    """
    path = user_config()
    try:
        doc = tomllib.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}") from None
    prefer = doc.get("prefer", {})
    if not isinstance(prefer, dict):
        raise UserError(f'{path}: [prefer] is a table of lines such as gate.NAME = "distribution"')
    flat: dict[str, str] = {}
    for kind, table in prefer.items():
        if kind not in KINDS or not isinstance(table, dict):
            raise UserError(f'{path}: [prefer] {kind} is no kind.{near(kind, KINDS)} Write gate.NAME = "distribution"')
        for name, dist in table.items():
            if not isinstance(dist, str):
                raise UserError(f"{path}: [prefer] {kind}.{name} must name a distribution, not {dist!r}")
            flat[f"{kind}.{name}"] = dist
    return flat


def shadowed() -> tuple[Path, Path] | None:
    """(found, expected) where another folder or file called `plugins` hides ours, else None.

    `python -m core` puts the current folder first on the path; the console script does not.
    """
    expected = Path(__file__).resolve().parent.parent / "plugins"
    spec = importlib.util.find_spec("plugins")
    if spec is None:
        return None
    places = [*(spec.submodule_search_locations or [spec.origin or "plugins"])]
    found = Path(places[0]).resolve()
    return None if found == expected else (found, expected)


@functools.cache
def installed() -> Registry:
    """The registry of this environment, read once a process."""
    return discover()


def _expanded(text: str, at: str) -> str:
    """A path with `$NAME` and `${NAME}` filled in, as study files that are shared between machines need.

    Raises:
        UserError: a variable is not set.
    """
    full = os.path.expandvars(text)
    unset = re.search(r"\$(\w+|\{\w+\})", full)
    if unset is not None and not Path(text).exists():
        name = unset[1].strip("{}")
        raise UserError(f"{at}{text!r}: the variable {name} is not set; export {name}=FOLDER, or write the path")
    return full
