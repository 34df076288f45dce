"""Which conditions of a screen are trained on, which are watched, which judge.

Control cells are always trained on: a prediction starts from them. Conditions are sets, so no spelling of one can be in
two splits.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal, final

import attrs
import numpy as np

from core.errors import UserError
from core.names import near
from core.params import knob, params
from plugins.data.screen_schemes import COMBOSCIPLEX7, Drawn, additive, holdout, kfold, simulation
from plugins.data.screen_table import ScreenTable, Unit, some
from plugins.shared.condition import Labels, Members, category, names_of, spell

SPLITS = ("train", "valid", "test")


@final
@params
class ScreenCut:
    """How conditions are split."""

    by: Literal["auto", "additive", "holdout", "simulation", "kfold", "covariate", "combosciplex7", "file"] = knob(
        "auto",
        "additive: test doubles whose singles are trained on; holdout: every condition of some perturbations; "
        "simulation: GEARS' unseen singles and doubles with 0, 1 or 2 perturbations seen; kfold: conditions by turns; "
        "covariate: all perturbed cells of some levels, such as a cell type; combosciplex7: that screen's seven "
        "published test conditions; file: a split file; auto: additive where three doubles have both singles, else "
        "covariate where one has several levels, else kfold",
        decides="split",
    )
    test: float = knob(
        0.3, "share of test doubles, held-out perturbations or levels", gt=0, lt=1,
        acts="by=auto|additive|holdout|covariate", decides="split",
    )  # fmt: skip
    valid: float = knob(0.1, "share for validation; for simulation and kfold of what is not test", gt=0, lt=1,
                        acts="by!=file", decides="split")  # fmt: skip
    fold: int = knob(
        0, "which of several splits: the seed is `seed` + fold, and of kfold the part that is test", ge=0, le=10**9,
        acts="by!=file", decides="split",
    )  # fmt: skip
    folds: int = knob(5, "parts that take turns", ge=2, acts="by=auto|kfold", decides="split")
    hold: tuple[str, ...] = knob(
        (), "held-out perturbations, or levels of `covariate`, by name; empty: a share is drawn",
        acts="by=holdout|covariate", decides="split",
    )  # fmt: skip
    covariate: str = knob(
        "", "the covariate whose levels are held out; empty: the first with several", acts="by=auto|covariate",
        decides="split",
    )  # fmt: skip
    file: str = knob(
        "", "a split file, as `core data split` writes it", acts="by=file", identity=False, decides="split"
    )
    seed: int = knob(
        42,
        "seed of all draws; apart from a run's seed, so that all seeds share one test set",
        ge=0,
        le=2**31,
        acts="by!=file",
        decides="split",
    )

    def __attrs_post_init__(self) -> None:
        if self.test + self.valid >= 1:
            raise ValueError(
                f"test = {self.test:g} and valid = {self.valid:g} leave nothing to train on: their sum is < 1"
            )
        if self.by == "file" and not self.file:
            raise ValueError("by = 'file' needs `file`, the path of a split file; `core data split` writes one")


@final
@attrs.frozen(kw_only=True)
class Division:
    """Names of units by split, and what there is to say of it."""

    scheme: str
    seed: int
    units: Mapping[str, tuple[str, ...]]
    """`train` (controls included), `valid`, `test`; disjoint, together all units"""
    categories: Mapping[str, str]
    """of each unit of valid and test: how new it is (`plugins.shared.condition.category`)"""
    sentence: str

    def rows(self, table: ScreenTable) -> dict[str, np.ndarray]:
        """The cells of each split, in rising order."""
        place = {unit.name: code for code, unit in enumerate(table.units)}
        return {
            split: np.flatnonzero(np.isin(table.unit_n, [place[name] for name in self.units[split]]))
            for split in SPLITS
        }


def divide(table: ScreenTable, knobs: ScreenCut, from_file: Callable[[str], Division]) -> Division:
    """Cut a screen.

    Raises:
        UserError: knobs that contradict the screen, or a split that would be empty.
    """
    by = _chosen(table, knobs) if knobs.by == "auto" else knobs.by
    if by == "file":
        return from_file(knobs.file)
    perturbed = [unit for unit in table.units if unit.members]
    if by == "covariate":
        return _by_covariate(table, perturbed, knobs)
    conditions = _ordered(table, perturbed)
    seed = knobs.seed + (0 if by == "kfold" else knobs.fold)
    if by == "additive":
        test, valid, sentence = additive(conditions, knobs.test, knobs.valid, seed)
    elif by == "holdout":
        test, valid, sentence = holdout(conditions, knobs.hold, knobs.test, knobs.valid, seed)
    elif by == "simulation":
        test, valid, sentence = simulation(conditions, knobs.valid, seed)
    elif by == "kfold":
        test, valid, sentence = kfold(conditions, knobs.folds, knobs.fold, knobs.valid, seed)
    else:
        test, valid, sentence = _published(conditions, knobs.valid, seed)
    of = {**dict.fromkeys(test, "test"), **dict.fromkeys(valid, "valid")}
    return made(table, by, seed, {unit.name: of.get(unit.members, "train") for unit in table.units}, sentence)


def made(table: ScreenTable, scheme: str, seed: int, split_of: Mapping[str, str], sentence: str) -> Division:
    """A division from the split of each unit, with the category of each that is not trained on.

    Raises:
        UserError: a split without a condition, or a control that is not trained on.
    """
    units = {split: tuple(u.name for u in table.units if split_of[u.name] == split) for split in SPLITS}
    perturbed = {split: [u for u in table.units if split_of[u.name] == split and u.members] for split in SPLITS}
    empty = [split for split in SPLITS if not perturbed[split]]
    if empty:
        raise UserError(
            f"{table.where}: the split by {scheme} leaves no condition for {' and '.join(empty)} of "
            f"{sum(bool(u.members) for u in table.units)} perturbed one(s): set cut.by or its shares otherwise, or "
            "give a split file with cut.file"
        )
    outside = [unit.name for unit in table.units if not unit.members and split_of[unit.name] != "train"]
    if outside:
        raise UserError(f"the split by {scheme} holds control cells out ({some(outside)}): controls are to be in train")
    seen = set(names_of(unit.members for unit in perturbed["train"]))
    trained = {unit.members for unit in perturbed["train"]}
    categories = {
        unit.name: "new_context" if unit.members in trained else category(unit.members, seen)
        for split in ("valid", "test")
        for unit in perturbed[split]
    }
    return Division(scheme=scheme, seed=seed, units=units, categories=categories, sentence=sentence)


def _ordered(table: ScreenTable, perturbed: Sequence[Unit]) -> list[Members]:
    """Conditions in the order of their labels in the input, so that a published draw over sorted labels is met."""
    label: dict[Members, str] = {}
    for code, raw in sorted(
        set(zip(table.unit_n.tolist(), table.raw_n.tolist(), strict=True)), key=lambda p: str(p[1])
    ):
        label.setdefault(table.units[code].members, str(raw))
    present = {unit.members for unit in perturbed}
    return sorted(present, key=lambda members: label[members])


def _chosen(table: ScreenTable, knobs: ScreenCut) -> Literal["additive", "covariate", "kfold"]:
    conditions = {unit.members for unit in table.units}
    complete = [c for c in conditions if len(c) == 2 and all((one,) in conditions for one in c)]
    if len(complete) >= 3 and not knobs.covariate:
        return "additive"
    return "covariate" if any(len(table.levels(place)) > 1 for place in range(len(table.covariates))) else "kfold"


def _by_covariate(table: ScreenTable, perturbed: Sequence[Unit], knobs: ScreenCut) -> Division:
    place = _place(table, knobs.covariate)
    name = table.covariates[place]
    levels = [level for level in table.levels(place) if any(u.levels[place] == level for u in perturbed)]
    for level in knobs.hold:
        if level not in levels:
            raise UserError(
                f"cut.hold: {name} has no perturbed level {level!r}: there are "
                f"{', '.join(levels)}.{near(level, levels)}"
            )
    seed = knobs.seed + knobs.fold
    drawn = [levels[i] for i in np.random.RandomState(seed).permutation(len(levels))]
    test = list(knobs.hold) or drawn[: max(1, int(knobs.test * len(levels)))]
    rest = [level for level in drawn if level not in test]
    if not rest:
        raise UserError(
            f"the split by {name} holds out every level ({', '.join(levels)}), so nothing is left to train on"
        )
    told = f"test holds out all perturbed cells of {name} = {', '.join(test)}"
    split_of = {unit.name: "test" if unit.members and unit.levels[place] in test else "train" for unit in table.units}
    if len(rest) >= 3:
        valid = rest[: max(1, int(knobs.valid * len(levels)))]
        split_of |= {u.name: "valid" for u in perturbed if u.levels[place] in valid}
        told += f", valid those of {', '.join(valid)}"
    else:
        inside = sorted({u.members for u in perturbed if split_of[u.name] == "test"})
        # Taken out of train they would be unseen where they are tested, which is another task than a new level.
        held = "test" if len(inside) > 2 else "train"
        left = sorted({u.members for u in perturbed if split_of[u.name] == held})
        order = np.random.RandomState(seed).permutation(len(left))
        watched = {left[i] for i in order[: max(1, int(knobs.valid * len(left)))]}
        valid = [u.name for u in perturbed if split_of[u.name] == held and u.members in watched]
        split_of |= dict.fromkeys(valid, "valid")
        where = "these levels" if held == "test" else "the others"
        told += f", but for {len(watched)} of {len(left)} conditions of {where}, which are valid"
    return made(table, f"covariate {name}", seed, split_of, f"{told}; control cells of every {name} are trained on")


def _place(table: ScreenTable, named: str) -> int:
    several = [name for p, name in enumerate(table.covariates) if len(table.levels(p)) > 1]
    listed = ", ".join(several) or "none"
    if named and named not in several:
        raise UserError(
            f"cut.covariate = {named!r} is no covariate with several levels (there is: "
            f"{listed}).{near(named, several)} To have more: {table.more}"
        )
    if not several:
        raise UserError(f"cut.by = 'covariate' needs a covariate with several levels: {table.more}")
    return table.covariates.index(named or several[0])


def _published(conditions: Sequence[Members], share: float, seed: int) -> Drawn:
    """The seven test conditions that CellFlow and scDFM report on ComboSciPlex."""
    absent = [spell(one) for one in COMBOSCIPLEX7 if one not in conditions]
    if absent:
        raise UserError(
            f"cut.by = 'combosciplex7': this screen lacks {len(absent)} of the seven conditions ({some(absent)})"
        )
    rest = [one for one in conditions if one not in COMBOSCIPLEX7]
    order = np.random.RandomState(seed).permutation(len(rest))
    valid = [rest[i] for i in order[: max(1, int(share * len(rest)))]]
    return list(COMBOSCIPLEX7), valid, f"test is the seven published conditions, valid {len(valid)} others"


def split_by_name(table: ScreenTable, lists: Mapping[str, Collection[str]], who: str) -> dict[str, str]:
    """The split of each unit from lists of units or of conditions, in any spelling that `+` joins.

    A condition without covariates stands for it in every stratum. Without a list of `train`, what no list names is
    trained on.

    Raises:
        UserError: a name that the screen lacks, or a condition in two lists.
    """
    names: dict[str, list[str]] = {}
    for unit in table.units:
        tail = unit.name.partition("|")[1:]
        names.setdefault(unit.name, []).append(unit.name)
        if tail[0]:
            names.setdefault(unit.condition, []).append(unit.name)
    found: dict[str, str] = {}
    for split in SPLITS:
        for text in lists.get(split, ()):
            head, bar, tail_text = str(text).partition("|")
            try:
                spoken = spell(Labels().read(head)) + bar + tail_text
            except ValueError as error:
                raise UserError(f"{who}: {split} names {text!r}, which {error}") from None
            if spoken not in names:
                raise UserError(
                    f"{who}: {split} names {text!r}, which is no condition of this screen.{near(spoken, names)}"
                )
            for name in names[spoken]:
                if found.setdefault(name, split) != split:
                    raise UserError(
                        f"{who}: {name!r} is in {found[name]} and in {split}: a condition is in one split only"
                    )
    forgotten = [unit.name for unit in table.units if unit.members and unit.name not in found]
    if lists.get("train") and forgotten:
        raise UserError(
            f"{who} lists conditions of train and names {len(forgotten)} nowhere ({some(forgotten)}): add them to a "
            "list, or leave `train` out, and whatever is not held out is trained on"
        )
    return {unit.name: found.get(unit.name, "train") for unit in table.units}
