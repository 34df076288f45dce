"""The part of a command line that chooses pieces: configuration files, flags, `CORE_*` variables."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import attrs

from core.choices import flatten
from core.config import ConfigError, Layer, Resolved, resolve
from core.errors import UserError
from core.layers import cli_layer, env_layer, file_layer, is_flag
from core.names import Bare, near
from core.registry import BUILTIN, Registry, installed

BUDGETS = "train.steps", "train.epochs"


@attrs.frozen
class Words:
    """A command line taken apart."""

    files: tuple[str, ...]
    overrides: tuple[str, ...]
    switches: frozenset[str]
    options: Mapping[str, str]


def take_apart(words: list[str], *, switches: Mapping[str, str], options: Mapping[str, str]) -> Words:
    """Sort words into files, `--key value` overrides, and the verb's own switches and options.

    Args:
        words: the command line behind the verb.
        switches: spelling -> name of flags without a value.
        options: spelling -> name of flags with a value.

    Raises:
        UserError: a word that is neither, an option without its value, or a switch with one.
    """
    files: list[str] = []
    overrides: list[str] = []
    on: set[str] = set()
    chosen: dict[str, str] = {}
    i = 0
    while i < len(words):
        word = words[i]
        head, equals, tail = word.partition("=")
        if head in switches:
            if equals:
                raise UserError(f"{head} takes no value, not {tail!r}")
            on.add(switches[head])
        elif head in options:
            if not equals:
                i += 1
                if i >= len(words) or is_flag(words[i]):
                    raise UserError(f"{head} needs a value")
                tail = words[i]
            if not tail:
                raise UserError(f"{head} needs a value")
            if chosen.setdefault(options[head], tail) != tail:
                raise UserError(f"{head} is given twice, as {chosen[options[head]]!r} and as {tail!r}; keep one")
        elif word.startswith("--"):
            overrides.append(word)
            if not equals and i + 1 < len(words) and not is_flag(words[i + 1]):
                i += 1
                overrides.append(words[i])
        elif is_flag(word):
            raise UserError(f"no flag {word}.{near(word, [*switches, *options])} Parameters are given as --name value")
        else:
            files.append(_a_file(word))
        i += 1
    return Words(tuple(files), tuple(overrides), frozenset(on), chosen)


def _a_file(word: str) -> str:
    if word.endswith(".toml"):
        return word
    registry = installed()
    homes = [kind for kind in registry.kinds() if kind != "data" and _is_name(registry, kind, word)]
    hint = f"; did you mean --{homes[0]} {word}?" if homes else "; pieces are chosen with --attention NAME and the like"
    raise UserError(f"{word!r} is no configuration file (.toml){hint}")


def _is_name(registry: Registry, kind: str, word: str) -> bool:
    try:
        registry.find(kind, word)
    except UserError:
        return False
    return True


def resolve_run(files: Collection[str], overrides: Collection[str], flags: Sequence[str] = ()) -> Resolved:
    """The run that files, environment and flags ask for; `flags` are those of the verb itself, for near matches.

    Raises:
        UserError: see `core.config.resolve`; also a recipe of another system, or steps and epochs both given.
    """
    layers = [*map(file_layer, files), env_layer(os.environ), cli_layer([*overrides], flags)]
    _refuse_unknown_names(layers, installed())
    return resolve_layers(layers)


def resolve_stored(run: Path, overrides: Collection[str] = ()) -> Resolved:
    """The configuration that a run directory holds, whatever the environment says.

    Args:
        run: the directory.
        overrides: flags laid over it, such as the new place of a data file.

    Raises:
        UserError: there is none, or its pieces are no longer installed.
    """
    config = run / "config.toml"
    if not config.exists():
        raise UserError(f"{run} was left before its configuration was written; give the first command again")
    _refuse_absent_pieces(run / "parts.toml", installed())
    return resolve_layers([file_layer(str(config)), cli_layer([*overrides])])


def resolve_trained(
    run: Path, overrides: Collection[str], *, free: Collection[str] = (), sampled: bool = True
) -> Resolved:
    """The configuration of a finished run whose model is put to use.

    What a model was trained with is part of it: said anew, it would act on nothing, or make the weights mean something
    else without a word. What acts after training alone may be said.

    Args:
        run: the directory.
        overrides: flags laid over its configuration.
        free: what the verb reads beside the data, such as `metrics`.
        sampled: whether it draws samples, so that the fields of `System.sampled_by` act.

    Raises:
        UserError: a flag would change the model, or do nothing; or see `resolve_stored`.
    """
    resolved = resolve_stored(run, overrides)
    if not overrides:
        return resolved
    stored = resolve_stored(run)
    may = ["data", *free, *(type(stored.root.system).sampled_by if sampled else ())]
    for path, setting in resolved.settings.items():
        before = stored.settings.get(path)
        changed = before is None or before.value != setting.value or before.row != setting.row
        if setting.identity and changed and path.partition(".")[0].partition("[")[0] not in may:
            was = "without it" if before is None else f"with {before.value}"
            raise UserError(
                f"{path} = {setting.value} ({setting.origin}): {run} was trained {was}, which stays part of its model. "
                f"Here --{', --'.join(may)} can be said; for another model there is `core run`"
            )
    return resolved


def _refuse_absent_pieces(parts: Path, registry: Registry) -> None:
    """Name the distributions that brought a run's pieces and are gone, before their parameters look unknown."""
    try:
        said = tomllib.loads(parts.read_text("utf-8"))
    except (OSError, ValueError):
        return
    gone: dict[str, list[str]] = {}
    for path, part in said.items():
        owner, _, name = str(part.get("name", "")).partition("/")
        if owner != BUILTIN and not registry.brought(str(part.get("kind", "")), name, owner):
            gone.setdefault(f"{owner} {part.get('version', '')}".strip(), []).append(f"{path} = {owner}/{name}")
    if gone:
        raise UserError(
            "; ".join(
                f"this run uses {', '.join(pieces)} of {owner}, which is not installed or no longer brings it: "
                f"pip install {owner.replace(' ', '==')}"
                for owner, pieces in gone.items()
            )
        )


def _refuse_unknown_names(layers: list[Layer], registry: Registry) -> None:
    """Refuse a wrong name before anything heavy is imported to see where it would stand."""
    wrong = registry.unknown((key, *said) for layer in layers for key, said in layer.entries.items())
    if wrong:
        raise ConfigError("\n".join(wrong))


def resolve_layers(layers: list[Layer]) -> Resolved:
    """The run that layers ask for, lowest first, with the recipe below them and what the system suggests below that.

    Raises:
        UserError: see `resolve_run`.
    """
    from core.train.settings import Run

    registry = installed()
    layers = [*_recipe(layers, registry), *layers]
    layers = [*_suggested(layers, registry), *layers]
    resolved = resolve(Run, layers, registry)
    loser = _outranked(resolved)
    if loser is not None:
        # Written down as 0, the one that does not count contradicts nothing when the configuration is read again.
        winner = next(key for key in BUDGETS if key != loser)
        said = f"{winner} decides ({resolved.settings[winner].origin})"
        resolved = resolve(Run, [*layers, Layer("budget", {loser: (0, said)})], registry)
    return resolved


def _recipe(layers: list[Layer], registry: Registry) -> list[Layer]:
    said = [layer.entries["recipe"] for layer in layers if "recipe" in layer.entries]
    if not said or not said[-1][0]:
        return []
    name, origin = said[-1]
    if isinstance(name, Bare):
        raise UserError(f"{origin}: a name is missing. Known: {', '.join(r.spoken for r in registry.rows('recipe'))}")
    found = registry.find("recipe", str(name), origin)
    row = found.row
    systems = [layer.entries["system"] for layer in layers if "system" in layer.entries]
    if systems and registry.find("system", str(systems[-1][0]), systems[-1][1]).row.name != row.system:
        raise UserError(
            f"recipe {row.name!r} ({origin}) is for system {row.system!r}, not {systems[-1][0]!r} ({systems[-1][1]})"
        )
    entries = {"system": row.system} | flatten(row.preset) | found.values
    return [Layer("recipe", {key: (value, f"recipe {row.name}") for key, value in entries.items()})]


def _suggested(layers: list[Layer], registry: Registry) -> list[Layer]:
    """What the chosen system suggests for settings of the run that are not its own fields."""
    said = [layer.entries["system"] for layer in layers if "system" in layer.entries]
    name, origin = said[-1] if said else (registry.default("system"), "default")
    if not name or isinstance(name, Bare):
        return []
    from core.kinds import System

    row = registry.find("system", str(name), origin).row
    cls = row.load()
    suggested = cls.suggests if issubclass(cls, System) else {}
    return [Layer("system", {key: (value, f"system {row.name}") for key, value in suggested.items()})] * bool(suggested)


def _outranked(resolved: Resolved) -> str | None:
    """Which of steps and epochs gives way: the one that a lower layer says.

    Raises:
        UserError: one layer says both.
    """
    steps, epochs = (resolved.settings[key] for key in BUDGETS)
    if not steps.value or not epochs.value:
        return None
    ranks = [setting.chain[-1].rank for setting in (steps, epochs)]
    if ranks[0] == ranks[1]:
        raise UserError(
            f"train.steps = {steps.value} ({steps.origin}) and train.epochs = {epochs.value:g} ({epochs.origin}) both "
            "say how long to train; give one (0 takes a value back)"
        )
    return BUDGETS[ranks[0] > ranks[1]]


def describe(resolved: Resolved) -> list[str]:
    """A line for each value: path, value, origins."""
    from core.toml import origins

    rows = [(path, _value(s.value), origins(s)) for path, s in resolved.settings.items()]
    wide, middle = max(len(r[0]) for r in rows), min(32, max(len(r[1]) for r in rows))
    return [f"{path:{wide}}  {value:{middle}}  {origin}" for path, value, origin in rows]


def _value(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
