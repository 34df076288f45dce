"""A study's directory beside its table: what was planned, the configuration of each arm, the study file.

DIR/study.toml         the study as asked; `core ablate DIR/study.toml` plans the same trials
DIR/plan.json          sealed, written once: arms, trials, analysis
DIR/plan.d/0001.json   sealed, appended: seeds or arms that were added later, analyses that were changed
DIR/arms/NAME.toml     the resolved configuration of an arm; `core run DIR/arms/NAME.toml --seed 3` is one trial
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from core.files import write_atomic
from core.identity import canonical_json, digest
from core.study.mismatch import difference
from core.study.sealed import Damaged, TableError, load, publish, seal, told
from core.study.table import Table

SCHEMA = 1
ANALYSIS = "analysis."


@attrs.frozen(kw_only=True)
class TrialOf:
    """Where a trial belongs."""

    id: str
    system: str
    arm: str
    seed: int
    block: str


@attrs.frozen(kw_only=True)
class Stored:
    """A plan as it lies on disk, with everything that was added to it."""

    root: Path
    hash: str
    first: Mapping[str, Any]
    """the plan document"""
    later: tuple[Mapping[str, Any], ...]
    """what was appended, in order"""
    arms: tuple[Mapping[str, Any], ...]
    trials: tuple[TrialOf, ...]

    @property
    def settings(self) -> dict[str, tuple[Any, str]]:
        """Settings of the study with their origins; analyses that were changed later win."""
        found = {key: (value, origin) for key, (value, origin) in self.first["settings"].items()}
        for more in self.later:
            found |= {key: (value, origin) for key, (value, origin) in more.get("settings", {}).items()}
        return found

    def value(self, key: str) -> Any:
        """One setting."""
        return self.settings[key][0]

    @property
    def axes(self) -> dict[str, list[str]]:
        """Axis -> labels of its levels, the baseline's first; with levels that were added."""
        return dict(next((more["axes"] for more in reversed(self.later) if "axes" in more), self.first["axes"]))

    @property
    def systems(self) -> list[str]:
        """In the order in which they were asked for."""
        return [*dict.fromkeys(arm["system"] for arm in self.arms)]

    @property
    def metrics(self) -> dict[str, str]:
        """System -> primary metric."""
        found = dict(self.first["metrics"])
        for more in self.later:
            found |= more.get("metrics", {})
        return {system: found[system] for system in self.systems}

    def arm(self, system: str, label: str) -> Mapping[str, Any]:
        """One arm."""
        return next(arm for arm in self.arms if (arm["system"], arm["label"]) == (system, label))


def plan_hash(doc: Mapping[str, Any]) -> str:
    """SHA-256 of what a plan decides: trials, baseline, and how they will be judged; not how they are run, nor in
    which words or by which flag or file anything was said."""
    settings = {key: value for key, (value, _) in doc["settings"].items() if key.startswith(ANALYSIS)}
    decided = {key: doc[key] for key in ("schema", "axes", "baseline", "metrics", "seeds", "blocks", "block_key")}
    idle = [[arm["system"], arm["label"], arm["state"], arm["why"]] for arm in doc["arms"] if arm["state"] != "planned"]
    return digest({**decided, "settings": settings, "idle": idle, "trials": sorted(map(canonical_json, doc["trials"]))})


def design_hash(doc: Mapping[str, Any]) -> str:
    """SHA-256 of what will be run and compared, whatever the analysis; a study's default directory is named by it."""
    return digest({"baseline": doc["baseline"], "trials": sorted(map(canonical_json, doc["trials"]))})


def keep(
    root: Path, doc: Mapping[str, Any], identities: Sequence[Mapping[str, Any]], study: str, attempts: int
) -> Table:
    """Write a plan into a directory, or find it there.

    Args:
        root: the directory, made if it is not there.
        doc: `core.study.plan.document` of the plan.
        identities: of its trials.
        study: text of the study file.
        attempts: a trial has.

    Raises:
        TableError: E-PLAN: the directory holds another plan; E-STRANGER: it holds something else; or the disk.

    A plan that was extended since is found both by what was asked at first and by all that it holds by now.
    """
    if root.exists() and not root.is_dir():
        raise TableError(f"E-STRANGER: {root} is a file; choose a directory with -o")
    with told(root):
        strangers = [] if not root.exists() else sorted(p.name for p in root.iterdir() if not p.name.startswith("."))
    if strangers and "LAYOUT" not in strangers:
        raise TableError(f"E-STRANGER: {root} is no study and not empty ({strangers[0]}, ...); choose another with -o")
    table = Table.create(root, attempts=attempts)
    if not publish(root / "plan.json", seal(doc)):
        there = read(root)
        if not _same(there, doc):
            raise TableError(f"E-PLAN: {root} was planned otherwise: {difference(root, there.first, doc)}")
    # All of this is done whoever wrote the plan: a process may have been killed between the plan and its files.
    mend(read(root))
    if not (root / "study.toml").exists():
        with told(root / "study.toml"):
            write_atomic(root / "study.toml", study)
    table.add(identities)
    return table


def mend(stored: Stored) -> None:
    """Write the configurations of arms that a process which was killed did not come to write.

    Raises:
        TableError: the disk.
    """
    _write_arms(stored.root, stored.arms)


def whole(stored: Stored, table: Table) -> None:
    """See that every trial of the plan is in the table.

    Raises:
        TableError: E-PLAN: a process was killed while it planned, and nobody has given its command again.
    """
    absent = {trial.id for trial in stored.trials} - {*table.ids()}
    if absent:
        raise TableError(
            f"E-PLAN: {stored.root} was left while it was planned: {len(absent)} of {len(stored.trials)} trials are "
            "not in its table yet; give the same command again"
        )


def planned_whole(root: Path) -> bool:
    """Whether planning came to its end here: `keep` writes the plan first, the study file then, trials last.

    Raises:
        TableError: the plan is damaged, or a newer version wrote it.
    """
    if not all((root / name).exists() for name in ("LAYOUT", "plan.json", "study.toml")):
        return False
    return {trial.id for trial in read(root).trials} <= {*Table(root).ids()}


def _same(there: Stored, doc: Mapping[str, Any]) -> bool:
    """Whether a command asks for the study as it was planned first, or as it is with all that was added."""
    everything = {**there.first, "trials": [[t.id, t.system, t.arm, t.seed, t.block] for t in there.trials]}
    return design_hash(doc) in (design_hash(there.first), design_hash(everything))


def append(root: Path, doc: Mapping[str, Any]) -> None:
    """Add something to a plan, as a file of its own that stays.

    Raises:
        TableError: the disk.
    """
    folder = root / "plan.d"
    with told(folder):
        folder.mkdir(exist_ok=True)
    number = 1
    while not publish(folder / f"{number:04d}.json", seal(doc)):
        number += 1
    _write_arms(root, doc.get("arms", []))


def read(root: Path) -> Stored:
    """A study's plan.

    Raises:
        TableError: there is none, it is damaged, or a newer version wrote it.
    """
    try:
        if root.exists() and not root.is_dir():
            raise FileNotFoundError
        first = load(root / "plan.json")
    except FileNotFoundError:
        if (root / "LAYOUT").exists():
            raise TableError(
                f"E-PLAN: {root} was left before its plan was written; give the first command again"
            ) from None
        raise TableError(f"E-STUDY: {root} holds no study (no plan.json). `core ablate` begins one") from None
    except Damaged as error:
        raise TableError(f"E-DAMAGED: {error}. Restore it from a backup, or plan anew with -o") from None
    if first["schema"] > SCHEMA:
        raise TableError(f"E-LAYOUT: {root} was planned by a newer cellcore; update cellcore. Nothing was changed")
    later = []
    for path in sorted((root / "plan.d").glob("[0-9]*.json"), key=lambda path: (len(path.stem), path.stem)):
        try:
            later.append(load(path))
        except Damaged as error:
            raise TableError(f"E-DAMAGED: {error}. Restore it from a backup, or delete it and add again") from None
    arms = {(arm["system"], arm["label"]): arm for doc in (first, *later) for arm in doc.get("arms", [])}
    trials = {(t[0], t[1], t[2]): TrialOf(id=t[0], system=t[1], arm=t[2], seed=t[3], block=t[4])
              for doc in (first, *later) for t in doc.get("trials", [])}  # fmt: skip
    return Stored(
        root=root, hash=plan_hash(first), first=first, later=tuple(later), arms=tuple(arms.values()),
        trials=tuple(trials.values()),
    )  # fmt: skip


def arm_file(system: str, label: str) -> str:
    """The name of an arm's configuration: legible, and its own however alike two labels look."""
    legible = re.sub(r"[^A-Za-z0-9.=_-]+", "-", f"{system} {label}").strip("-")[:80]
    return f"{legible}-{digest([system, label])[:8]}.toml"


def command_of(stored: Stored, trial: TrialOf) -> str:
    """The command that repeats a trial outside its study; to be given in the study's directory."""
    block = f" --{stored.first['block_key']} {shlex.quote(trial.block)}" if trial.block else ""
    return f"core run arms/{arm_file(trial.system, trial.arm)} --seed {trial.seed}{block}"


def _write_arms(root: Path, arms: Sequence[Mapping[str, Any]]) -> None:
    folder = root / "arms"
    with told(folder):
        folder.mkdir(exist_ok=True)
        for arm in arms:
            path = folder / arm_file(arm["system"], arm["label"])
            if arm["state"] == "planned" and not path.exists():
                write_atomic(path, arm["config"])
