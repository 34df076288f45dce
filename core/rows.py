"""What a manifest says: rows, each a name and what it stands for, checked before anything is imported."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import attrs

from core.errors import UserError
from core.names import NAME, compile_pattern, near

_PATH = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+")
BUILTIN = "cellcore"
KINDS: dict[str, str] = {
    "system": "a task: slots and data become something that trains and is judged",
    "recipe": "a named set of choices for a system",
    "data": "where data come from",
    "backbone": "the network between data and predictions",
    "encoder": "a batch becomes tokens",
    "attention": "tokens read from each other",
    "mask": "which pairs may see each other",
    "sparsifier": "logits become weights",
    "gate": "scales what attention read",
    "kernel": "how the attention sum is computed",
    "position": "how attention knows where tokens are",
    "anchor": "extra keys that are always visible",
    "ffn": "each token on its own",
    "residual": "how a layer is added to its input",
    "pooling": "many tokens become one vector",
    "head": "a vector becomes a prediction",
    "path": "how data turn into noise and back",
    "time": "which times a training step visits",
    "coupling": "which source goes with which target",
    "solver": "from noise to data",
    "loss": "how wrong a prediction is",
    "metric": "how good a prediction is",
    "extractor": "frozen features of items",
    "strategy": "where the steps run",
    "executor": "where whole runs run",
    "tracker": "where curves go",
}
_ROW_KEYS = {
    "target": str, "summary": str, "source": str, "preset": dict, "pattern": str, "accepts": dict, "because": dict,
    "needs": list, "revision": int, "deprecated": str, "files": list, "default": bool, "system": str,
    "forwards": dict, "keeps": dict, "holds": list,
}  # fmt: skip


@attrs.frozen
class Origin:
    """The distribution that brought a row."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


@attrs.frozen(kw_only=True)
class Row:
    """A registry entry: what a name stands for."""

    kind: str
    name: str
    origin: Origin
    target: str = ""
    summary: str = ""
    source: str = ""
    preset: Mapping[str, Any] = attrs.field(factory=dict)
    pattern: str | None = None
    accepts: Mapping[str, list[str]] = attrs.field(factory=dict)
    """slot kind -> names that may stand there, at any depth below; an empty list: that kind has no place here"""
    because: Mapping[str, str] = attrs.field(factory=dict)
    """slot kind -> the reason for `accepts`, as a half sentence"""
    needs: tuple[str, ...] = ()
    revision: int = 1
    deprecated: str | None = None
    """the name to use instead"""
    files: tuple[str, ...] = ()
    """endings of file names that speak this row: `.h5ad`"""
    holds: tuple[str, ...] = ()
    """names of files; a folder that holds them all speaks this row"""
    forwards: Mapping[str, str] = attrs.field(factory=dict)
    """what a call may say -> the parameter below that gets it: `window` -> `mask.window`"""
    keeps: Mapping[str, list[Any]] = attrs.field(factory=dict)
    """parameter -> the values that it may have under this name"""
    default: bool = False
    system: str | None = None
    """the system of a recipe; of data, the only one that it is made for"""

    @property
    def qualified(self) -> str:
        return f"{self.origin.name}/{self.name}"

    def meant(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """What a spoken name says of parameters, by the paths of those that get it.

        Raises:
            UserError: it says one parameter by two words.
        """
        for word, path in self.forwards.items():
            if word in said and path in said:
                raise UserError(f"{self.kind} {self.name!r}: {word} and {path} are one parameter; give it once")
        return {self.forwards.get(name, name): value for name, value in said.items()}

    @property
    def spoken(self) -> str:
        """The name as `core list` shows it."""
        return self.pattern or self.name

    def load(self) -> type:
        """Import the parameter class.

        Raises:
            UserError: a missing requirement, a target that does not import, or a class of another kind.
        """
        who = f"{self.kind} {self.name!r} (from {self.origin})"
        try:
            missing = [need for need in self.needs if not _met(need)]
        except ValueError as error:
            raise UserError(f"{who}: its manifest needs what is no requirement: {error}") from None
        if missing:
            quoted = " ".join(f"'{need}'" for need in missing)
            raise UserError(f"{who} needs {', '.join(missing)}. Install with: pip install {quoted}")
        module, _, attribute = self.target.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:  # third-party code may raise anything at import
            raise UserError(
                f"{who} cannot be loaded: {self.target} raised {type(error).__name__}: {error}. "
                "`core doctor` tells more."
            ) from error
        if getattr(found, "KIND", None) != self.kind:
            raise UserError(f"{who}: {self.target} is no {self.kind} (its KIND is {getattr(found, 'KIND', None)!r})")
        if not attrs.has(found):
            raise UserError(f"{who}: {self.target} is no parameter class; decorate it with @params (core.params)")
        lacking = sorted(getattr(found, "__abstractmethods__", ()))
        if lacking:
            raise UserError(f"{who}: {self.target} lacks {', '.join(lacking)}, which every {self.kind} has")
        return found


def _met(need: str) -> bool:
    from packaging.requirements import Requirement

    requirement = Requirement(need)
    if requirement.marker is not None and not requirement.marker.evaluate():
        return True
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False


@attrs.frozen
class Verb:
    """A subcommand that a manifest brings: `[verbs.data.fetch]` is `core data fetch`."""

    name: str
    target: str
    summary: str
    origin: Origin

    def load(self) -> Callable[[list[str]], int]:
        """Import its function of the words behind it, which returns the exit status.

        Raises:
            UserError: the target does not import.
        """
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except Exception as error:  # third-party code may raise anything at import
            raise UserError(
                f"{self.name} (from {self.origin}) cannot be loaded: {self.target} raised "
                f"{type(error).__name__}: {error}. `core doctor` tells more."
            ) from error


def read_verb(name: str, values: Any, origin: Origin) -> Verb:
    """A subcommand as a manifest says it.

    Raises:
        ValueError: anything but a target and a summary.
    """
    if not NAME.fullmatch(name):
        raise ValueError("a name is lower-case letters, digits and _, and begins with a letter")
    if not isinstance(values, dict) or values.keys() != {"target", "summary"}:
        raise ValueError("a subcommand has exactly the keys target and summary")
    if not all(isinstance(value, str) for value in values.values()) or ":" not in values["target"]:
        raise ValueError("target must read module:function, and summary be a text")
    return Verb(name, values["target"], values["summary"], origin)


@attrs.frozen
class Found:
    """A row together with what the spoken name said of its parameters."""

    row: Row
    values: dict[str, Any]
    warning: str | None = None


@attrs.frozen
class Broken:
    """A manifest, or a row of one, that cannot be used, and why."""

    origin: str
    reason: str


def read_row(kind: str, name: str, values: Any, origin: Origin) -> Row:
    if not NAME.fullmatch(name):
        raise ValueError("a name is lower-case letters, digits and _, and begins with a letter")
    if not isinstance(values, dict):
        raise ValueError("a row is a table of keys")
    for key, value in values.items():
        if key not in _ROW_KEYS:
            raise ValueError(f"unknown key {key!r}.{near(key, _ROW_KEYS)}")
        wanted = _ROW_KEYS[key]
        if type(value) is not wanted:
            raise ValueError(f"{key} must be {wanted.__name__}, not {type(value).__name__}")
    _check_inside(values)
    if "deprecated" not in values:
        required = ("summary", "system") if kind == "recipe" else ("summary", "target")
        for key in required:
            if not values.get(key):
                raise ValueError(f"{key} is missing")
        if kind != "recipe" and ":" not in values["target"]:
            raise ValueError(f"target must read module:Class, not {values['target']!r}")
        if len(values["summary"]) > 80 or not values["summary"].isprintable():
            raise ValueError(f"summary has {len(values['summary'])} characters; one line of up to 80 is allowed")
    if "pattern" in values:
        compile_pattern(values["pattern"])
    tuples = {key: tuple(values[key]) for key in ("needs", "files", "holds") if key in values}
    return Row(kind=kind, name=name, origin=origin, **{**values, **tuples})


def _check_inside(values: Mapping[str, Any]) -> None:
    """What stands inside the lists and tables of a row.

    Raises:
        ValueError: an element of another type, an unknown kind, or a file ending without its dot.
    """
    for key in ("needs", "files", "holds"):
        if not all(isinstance(item, str) for item in values.get(key, ())):
            raise ValueError(f"{key} must be a list of texts")
    if not all(len(ending) > 1 and ending.startswith(".") for ending in values.get("files", ())):
        raise ValueError("files lists endings with their dot, such as .h5ad")
    for kind in [*values.get("accepts", ()), *values.get("because", ())]:
        if kind not in KINDS:
            raise ValueError(f"accepts and because speak of kinds, and {kind!r} is none.{near(kind, KINDS)}")
    for kind, names in values.get("accepts", {}).items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"accepts.{kind} must be a list of names")
    for name, path in values.get("forwards", {}).items():
        if not NAME.fullmatch(name) or not isinstance(path, str) or not _PATH.fullmatch(path):
            raise ValueError(f"forwards.{name} must name a parameter by its path, such as mask.window")
    for name, options in values.get("keeps", {}).items():
        if not isinstance(options, list) or not options:
            raise ValueError(f"keeps.{name} must be a list of values")
    if not all(isinstance(reason, str) for reason in values.get("because", {}).values()):
        raise ValueError("because must hold texts")
