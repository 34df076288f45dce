"""What a user said of a study, in a file and by flags, taken apart but not yet judged.

A text in a study file is read as if it had been typed: `lr = "1e-3"` is a number where a number is meant. So a file
can hold whatever a flag can, in the very same letters.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from core.choices import Layer, flatten
from core.errors import UserError
from core.layers import file_layer
from core.names import Text, near, split
from core.params import fields
from core.study.axes import spoken
from core.study.settings import Study

SCHEMA = 1
FLAGS = {
    "name": "title", "system": "system", "seeds": "seeds", "blocks": "blocks", "design": "design.kind",
    "match": "budget.match", "match_on": "budget.on", "tolerance": "budget.tolerance", "metric": "analysis.metric",
    "alpha": "analysis.alpha", "mde": "analysis.mde", "margin": "analysis.margin", "power": "analysis.power",
    "require_power": "analysis.require_power",
    "executor": "run.executor", "slots": "run.slots", "threads": "run.threads", "gpus": "run.gpus",
    "attempts": "run.attempts", "timeout": "run.timeout", "stop": "run.stop", "store": "run.store", "keep": "run.keep",
}  # fmt: skip
"""flag of `core ablate` -> key of a study file"""
FREE = "axes", "set", "baseline", "tasks"
"""tables whose keys are a run's own"""
PERCENT = "budget.tolerance", "analysis.alpha", "analysis.mde", "analysis.margin", "analysis.power"
LISTS = "system", "analysis.metric"
"""settings of which a file may give one without brackets"""
Said = tuple[Any, str]
"""a value and where it was said"""
Exclusion = tuple[Mapping[str, str], str, str]
"""axis -> label, the reason, where it was said"""
_LEVELS_AND_WHY = re.compile(r"""((?:[^:()\[\]"']|\([^()]*\)|\[[^\[\]]*\]|"[^"]*"|'[^']*')*):(.*)""", re.DOTALL)
"""`attention=linear,ffn=moe4x2:WHY`; a colon inside brackets or quotes belongs to a level"""


@attrs.define
class Words:
    """Everything said, by what it is of."""

    settings: dict[str, Said] = attrs.field(factory=dict)
    """from the file, key of `core.study.settings.Study` -> value"""
    flags: dict[str, Said] = attrs.field(factory=dict)
    """the same from flags"""
    axes: dict[str, tuple[list[Any], str]] = attrs.field(factory=dict)
    fixed: dict[str, Said] = attrs.field(factory=dict)
    baseline: dict[str, tuple[str, str]] = attrs.field(factory=dict)
    exclude: list[Exclusion] = attrs.field(factory=list)
    cells: list[dict[str, str]] = attrs.field(factory=list)
    tasks: dict[str, dict[str, Said]] = attrs.field(factory=dict)

    def hear(self, words: Mapping[str, Said]) -> None:
        """Flags over what the file said.

        Raises:
            UserError: a baseline or an exclusion that is none, or levels for an axis that there is not.
        """
        for key, (value, origin) in words.items():
            if key in FLAGS:
                self.flags[FLAGS[key]] = (share(FLAGS[key], value, origin), origin)
            elif key == "baseline":
                self.baseline |= {axis: (level, origin) for axis, level in _pairs(value, origin).items()}
            elif key == "exclude":
                hit = _LEVELS_AND_WHY.fullmatch(str(value))
                if hit is None or not hit[2].strip():
                    raise UserError(f"{origin}: write attention=linear,ffn=moe4x2:WHY; the reason goes into the report")
                self.exclude.append((_pairs(hit[1], origin), hit[2].strip(), origin))
            else:
                self._vary(key, value, origin)

    def _vary(self, key: str, value: Any, origin: str) -> None:
        """An axis, one more level of an axis (`+NAME`), or a value for all arms, which an axis of the file is then."""
        text = str(value).strip()
        if text.startswith("+") and (key in self.axes or not re.match(r"\+[.0-9]", text)):
            if key not in self.axes:
                raise UserError(f"{origin}: {key} is no axis, so {text} adds to nothing.{near(key, self.axes)}")
            levels, where = self.axes[key]
            self.axes[key] = ([*levels, *_pieces(text[1:])], f"{where}, {origin}")
            return
        pieces = _pieces(str(value))
        self.axes.pop(key, None)
        self.fixed.pop(key, None)
        if len(pieces) > 1:
            self.axes[key] = (pieces, origin)
        else:
            self.fixed[key] = (value, origin)
            self.baseline.pop(key, None)


def share(key: str, value: Any, origin: str) -> Any:
    """`5%` as 0.05, where a share is meant; anything else as it is.

    Raises:
        UserError: a percentage that is no number.
    """
    if key in PERCENT and isinstance(value, str) and (hit := re.fullmatch(r"\s*([-+]?[0-9.]+)\s*%\s*", value)):
        try:
            return float(hit[1]) / 100
        except ValueError:
            raise UserError(f"{origin}: {value!r} is no percentage") from None
    return value


def from_file(file: str) -> Words:
    """The tables of a study file.

    Raises:
        UserError: no file, no TOML, a newer schema, or a table that is none.
    """
    layer = file_layer(file)
    doc = tomllib.loads(Path(file).read_text("utf-8-sig"))
    where = _Where(Path(file).name, layer)
    _check_schema(doc.pop("schema", SCHEMA), where("schema"))
    for table in FREE:
        if not isinstance(doc.get(table, {}), dict):
            raise UserError(f"{where(table)}: {table} is a table, [{table}]")
    words = Words(fixed=where.under("set"))
    doc.pop("set", None)
    words.tasks = _tasks(doc.pop("tasks", {}), where)
    words.baseline = {
        key: (spoken(value), where(f"baseline.{key}")) for key, value in flatten(doc.pop("baseline", {})).items()
    }
    for key, values in flatten(doc.pop("axes", {})).items():
        if not isinstance(values, list):
            raise UserError(f'{where(f"axes.{key}")}: the axis {key} is a list of levels, ["dense", "moe4x2"]')
        words.axes[key] = ([_typed(value) for value in values], where(f"axes.{key}"))
    _refuse_strange(doc, where)
    if isinstance(doc.get("design"), dict):
        words.exclude = _exclusions(doc["design"].pop("exclude", []), where)
        words.cells = _cells(doc["design"].pop("cells", []), where)
    words.settings = _settings(doc, where)
    return words


@attrs.frozen
class _Where:
    """Lines of a file."""

    name: str
    layer: Layer

    def __call__(self, key: str) -> str:
        """`study.toml:7` of a key, else of the first key below it, else the file."""
        entries = self.layer.entries
        below = next((origin for other, (_, origin) in entries.items() if other.startswith(f"{key}.")), self.name)
        return entries[key][1] if key in entries else below

    def under(self, table: str) -> dict[str, Said]:
        """Entries of one table, by their keys inside it.

        Raises:
            UserError: `name` in the table itself, which names nothing there.
        """
        if table in self.layer.entries:
            raise UserError(
                f"{self(table)}: [{table}] takes keys of `core run`, and name is none; [{table}.ffn] has one"
            )
        return {
            key.removeprefix(f"{table}."): (_typed(value), origin)
            for key, (value, origin) in self.layer.entries.items()
            if key.startswith(f"{table}.")
        }


def _check_schema(schema: Any, origin: str) -> None:
    if isinstance(schema, int) and schema > SCHEMA:
        raise UserError(f"{origin}: schema {schema} is of a newer cellcore; this one reads {SCHEMA}. Update cellcore")
    if type(schema) is not int or schema != SCHEMA:
        raise UserError(f"{origin}: schema {schema!r} is none; write schema = {SCHEMA}")


def _refuse_strange(doc: Mapping[str, Any], where: _Where) -> None:
    """Refuse a table or key that a study file does not have."""
    known = ["schema", "name", *(f.name for f in fields(Study) if f.name != "title"), *FREE]
    for key in doc:
        if key not in known:
            raise UserError(
                f"{where(key)}: a study file has no {key}.{near(key, known)} There are: {', '.join(known)}; what all "
                "arms share stands in [set]"
            )


def _tasks(tables: Mapping[str, Any], where: _Where) -> dict[str, dict[str, Said]]:
    for task, table in tables.items():
        if not isinstance(table, dict):
            raise UserError(f"{where(f'tasks.{task}')}: a task is a table, [tasks.{task}]")
        if not table:
            raise UserError(f'{where.name}: [tasks.{task}] says nothing; give it what is its own, system = "spatial"')
    return {task: where.under(f"tasks.{task}") for task in tables}


def _exclusions(entries: Any, where: _Where) -> list[Exclusion]:
    origin = where("design.exclude")
    found: list[Exclusion] = []
    for entry in entries if isinstance(entries, list) else [entries]:
        why = entry.get("why", "") if isinstance(entry, dict) else None
        if not isinstance(entry, dict) or not isinstance(why, str):
            raise UserError(f'{origin}: an exclusion is a table, {{ attention = "linear", why = "..." }}')
        levels = {key: spoken(value) for key, value in flatten(entry).items() if key != "why"}
        found.append((levels, why, origin))
    return found


def _cells(entries: Any, where: _Where) -> list[dict[str, str]]:
    entries = entries if isinstance(entries, list) else [entries]
    if not all(isinstance(cell, dict) for cell in entries):
        raise UserError(f'{where("design.cells")}: a cell is a table, {{ attention = "linear" }}')
    return [{key: spoken(value) for key, value in flatten(cell).items()} for cell in entries]


def _settings(doc: dict[str, Any], where: _Where) -> dict[str, Said]:
    """Settings by their keys; seeds as a number or a list, and one system or metric without brackets."""
    seeds = doc.get("seeds")
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        doc["seeds"] = str(seeds)
    elif isinstance(seeds, list):
        doc["seeds"] = ",".join(map(str, seeds))
    found = {}
    for key, value in flatten(doc).items():
        if key in LISTS and isinstance(value, str):
            value = [value]
        origin = where(key)
        found["title" if key == "name" else key] = (share(key, value, origin), origin)
    return found


def _typed(value: Any) -> Any:
    if isinstance(value, str):
        return Text(value)
    return {key: _typed(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _pieces(text: str) -> list[Text]:
    return [Text(piece.strip()) for piece in split(text, text)]


def _pairs(text: Any, origin: str) -> dict[str, str]:
    """`attention=softmax,ffn=dense`."""
    found: dict[str, str] = {}
    for piece in split(str(text), str(text)):
        key, equals, level = piece.partition("=")
        key, level = key.strip().replace("-", "_").removesuffix(".name"), level.strip()
        if not equals or not key or not level:
            raise UserError(f"{origin}: write AXIS=LEVEL,AXIS=LEVEL, not {piece.strip()!r}")
        if found.setdefault(key, level) != level:
            raise UserError(f"{origin}: {key} is there twice, as {found[key]} and as {level}; keep one")
    return found


def metric_of_each(names: Sequence[str], said: Sequence[str], where: str) -> dict[str, str]:
    """The metric of each system: one for all, or one for each in their order; empty where none was said.

    Raises:
        UserError: another number.
    """
    if len(said) not in (0, 1, len(names)):
        raise UserError(f"{where}: {len(said)} metrics for {len(names)} systems; one for each")
    return {name: said[i if len(said) > 1 else 0] for i, name in enumerate(names)} if said else {}
