"""Splits of screens: disjoint as sets, what each scheme promises, files."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config import resolve_part
from core.errors import UserError
from plugins.data.screen_cut import SPLITS, Division, ScreenCut, divide
from plugins.data.screen_schemes import COMBOSCIPLEX7, additive
from plugins.data.screen_split import document, read_split, write_split
from plugins.data.screen_table import ScreenTable
from plugins.shared.condition import Members, names_of, read_canonical
from screens import table

SINGLES = tuple(f"P{i:02d}" for i in range(14))
DOUBLES = tuple(f"{a}+{b}" if (i + j) % 2 else f"{b}+{a}" for (i, a), (j, b) in combinations(enumerate(SINGLES[:9]), 2))
WIDE = table(("ctrl", *SINGLES, *DOUBLES), kinds=("T", "B", "NK", "M"), cells=1)
SCHEMES = ("additive", "holdout", "simulation", "kfold", "covariate")


def cut(cells: ScreenTable = WIDE, **knobs: Any) -> Division:
    return divide(cells, ScreenCut(**knobs), lambda path: read_split(path, cells))


def conditions(division: Division, split: str) -> set[Members]:
    return {read_canonical(name.partition("|")[0]) for name in division.units[split]} - {()}


@pytest.mark.parametrize("by", SCHEMES)
@settings(deadline=None, max_examples=8)
@given(fold=st.integers(0, 4))
def test_splits_are_disjoint_as_sets(by: str, fold: int) -> None:
    """Units are divided without rest; controls are trained on; no set is in two splits, in any spelling."""
    found = cut(by=by, fold=fold)
    names = [name for split in SPLITS for name in found.units[split]]
    assert sorted(names) == sorted(unit.name for unit in WIDE.units)
    assert all(found.units[split] for split in SPLITS)
    assert {name for name in names if name.startswith("control")} <= set(found.units["train"])
    assert set(found.categories) == set(found.units["valid"]) | set(found.units["test"])
    if by != "covariate":
        assert not any(conditions(found, a) & conditions(found, b) for a, b in combinations(SPLITS, 2))
    assert cut(by=by, fold=fold) == found
    assert cut(by=by, fold=(fold + 1) % 5).units != found.units


@settings(deadline=None, max_examples=10)
@given(fold=st.integers(0, 50))
def test_additive_tests_doubles_of_trained_singles(fold: int) -> None:
    """Every perturbation of a held-out double is trained on alone."""
    found = cut(by="additive", fold=fold)
    train = conditions(found, "train")
    held = conditions(found, "test") | conditions(found, "valid")
    assert held
    assert all(len(members) == 2 and all((one,) in train for one in members) for members in held)
    assert set(found.categories.values()) == {"combo_seen2"}


@pytest.mark.parametrize("fold", range(5))
def test_additive_folds_are_those_of_scdfm(fold: int) -> None:
    """Test is the first int(0.3 n) of the sorted labels of doubles, shuffled by numpy's seed 42 + fold."""
    labels = sorted(DOUBLES)
    np.random.RandomState(42 + fold).shuffle(labels)
    wanted = {tuple(sorted(label.split("+"))) for label in labels[: int(0.3 * len(labels))]}
    assert conditions(cut(by="additive", fold=fold), "test") == wanted


def test_additive_leaves_doubles_without_singles_in_train() -> None:
    """Doubles that no single belongs to are never held out, and the sentence counts them."""
    cells = table(("ctrl", "A", "B", "C", "A+B", "B+C", "A+C", "X+Y", "A+Z"))
    found = cut(cells, by="additive")
    assert {("X", "Y"), ("A", "Z")} <= conditions(found, "train")
    assert "2 combination(s) without their singles stay in train" in found.sentence


@settings(deadline=None, max_examples=15)
@given(fold=st.integers(0, 50), share=st.floats(0.05, 0.6))
def test_held_out_perturbations_are_in_no_training_condition(fold: int, share: float) -> None:
    """What is held out is trained on neither alone nor beside another, nor watched in validation."""
    found = cut(by="holdout", fold=fold, test=share)
    train, valid = (set(names_of(conditions(found, split))) for split in ("train", "valid"))
    test = conditions(found, "test")
    held = set(names_of(members for members in test if len(members) == 1)) - train
    assert all(set(members) & held for members in test)
    assert not held & valid
    assert all(set(members) - train for members in conditions(found, "valid"))


def test_named_perturbations_are_held_out() -> None:
    """`hold` names them."""
    found = cut(by="holdout", hold=("P03", "P11"))
    everything = {unit.members for unit in WIDE.units}
    assert conditions(found, "test") == {members for members in everything if {"P03", "P11"} & set(members)}
    assert found.categories["P11|T"] == "unseen_single"
    assert found.categories["P00+P03|T"] == "combo_seen1"


@settings(deadline=None, max_examples=15)
@given(fold=st.integers(0, 50))
def test_simulation_counts_seen_perturbations(fold: int) -> None:
    """Every category of the GEARS split is there, and its number is that of perturbations in training conditions."""
    found = cut(by="simulation", fold=fold)
    seen = set(names_of(conditions(found, "train")))
    for name, kind in found.categories.items():
        members = read_canonical(name.partition("|")[0])
        count = sum(member in seen for member in members)
        assert kind == ("unseen_single" if len(members) == 1 else f"combo_seen{count}") or (kind, count) == (
            "seen_single",
            1,
        )
    of_test = {found.categories[name] for name in found.units["test"]}
    assert {"unseen_single", "combo_seen1", "combo_seen2"} <= of_test
    held = {members[0] for members in conditions(found, "test") if len(members) == 1}
    assert len(held) == len(SINGLES) - int(0.75 * len(SINGLES))
    assert not held & set(names_of(conditions(found, "train") | conditions(found, "valid")))


def test_kfold_tests_each_condition_once() -> None:
    """Over the folds each condition is test exactly once."""
    parts = [conditions(cut(by="kfold", folds=4, fold=fold), "test") for fold in range(4)]
    everything = [members for part in parts for members in part]
    assert len(everything) == len(set(everything)) == len(SINGLES) + len(DOUBLES)


def test_a_level_is_held_out_whole() -> None:
    """All perturbed cells of the level are test, its controls are trained on, and every category is a new context."""
    found = cut(by="covariate", hold=("B",))
    assert all(name.endswith("|B") for name in found.units["test"])
    assert [name for name in found.units["train"] if name.endswith("|B")] == ["control|B"]
    assert set(found.categories.values()) == {"new_context"}


def test_two_levels_leave_validation_inside_the_held_out_one() -> None:
    """With one level to train on, validation is some conditions of the other, which are all trained on."""
    found = cut(table(kinds=("T", "B"), cells=1), by="covariate", hold=("B",))
    assert all(name.endswith("|B") for name in (*found.units["valid"], *found.units["test"]))
    assert set(found.categories.values()) == {"new_context"}
    assert "which are valid" in found.sentence


def test_auto_takes_what_the_screen_can_do() -> None:
    """Doubles with singles: additive; several levels: covariate; else kfold."""
    assert cut(by="auto").scheme == "additive"
    singles = ("ctrl", *SINGLES)
    assert cut(table(singles), by="auto").scheme == "covariate cell_type"
    assert cut(table(singles, kinds=("T",)), by="auto").scheme == "kfold"


def test_published_conditions_of_combosciplex() -> None:
    """The seven are test; a screen without them is refused."""
    labels = (
        "control+control",
        *("+".join(m) if len(m) > 1 else f"control+{m[0]}" for m in COMBOSCIPLEX7),
        "X+Y",
        "X",
        "Y",
    )
    assert conditions(cut(table(labels), by="combosciplex7"), "test") == set(COMBOSCIPLEX7)
    with pytest.raises(UserError, match="lacks 7 of the seven"):
        cut(by="combosciplex7")


@pytest.mark.parametrize("by", SCHEMES)
def test_a_file_gives_the_division_back(by: str, tmp_path: Path) -> None:
    """Written and read back, a division has the same units and categories."""
    path = tmp_path / "split.json"
    made = cut(by=by)
    write_split(path, document(made, WIDE))
    again = cut(by="file", file=str(path))
    assert (again.units, again.categories, again.seed, again.scheme) == (
        made.units,
        made.categories,
        made.seed,
        made.scheme,
    )


def test_lists_of_ones_own(tmp_path: Path) -> None:
    """Conditions in any order, with or without levels; what no list names is trained on; `val` is understood."""
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"test": ["P01+P00", "P02|B"], "val": ["ctrl+P03"]}))
    found = cut(by="file", file=str(path))
    assert found.units["test"] == ("P02|B", "P00+P01|B", "P00+P01|M", "P00+P01|NK", "P00+P01|T")
    assert conditions(found, "valid") == {("P03",)}
    assert found.categories["P02|B"] == "new_context"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"test": ["P99"], "valid": ["P01"]}', "test names 'P99', which is no condition.*mean 'P"),
        ('{"test": ["P00+P01"], "valid": ["P01+P00"]}', "'P00.P01.B' is in valid and in test"),
        ('{"test": ["P00"]}', "leaves no condition for valid"),
        ('{"test": ["control"], "valid": ["P01"]}', "leaves no condition for test"),
        ('{"test": ["control", "P00"], "valid": ["P01"]}', "controls are to be in train"),
        ('{"test": ["P00"], "valid": ["P01"], "train": ["P02"]}', "names 188 nowhere .P03.B, P03.M"),
        ('{"test": ["P00+"], "valid": ["P01"]}', "test names 'P00.', which names a perturbation without a name"),
        ('{"test": "P00"}', "test is to be a list"),
        ("[1]", "is of list"),
        ('{"schema": 9}', "schema 9"),
        ("{", "cannot be read as JSON"),
    ],
)
def test_wrong_files_are_refused(content: str, says: str, tmp_path: Path) -> None:
    """One sentence for each mistake."""
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(UserError, match=says):
        cut(by="file", file=str(path))


def test_a_file_for_other_data_is_refused(tmp_path: Path) -> None:
    """The error says what differs; a missing file names one beside it."""
    path = tmp_path / "split.json"
    write_split(path, document(cut(by="additive"), WIDE))
    other = attrs.evolve(WIDE, genes=(*WIDE.genes[:-1], "other"))
    with pytest.raises(UserError, match=r"made for other data .its genes_sha256 differ"):
        cut(other, by="file", file=str(path))
    fewer = table(("ctrl", *SINGLES, *DOUBLES), kinds=("T", "B", "NK", "M"), cells=2)
    with pytest.raises(UserError, match="cells, conditions differ; cells differ in P00"):
        cut(fewer, by="file", file=str(path))
    with pytest.raises(UserError, match=r"no such file. Did you mean 'split.json'"):
        cut(by="file", file=str(tmp_path / "splt.json"))
    with pytest.raises(UserError, match="cannot be written"):
        write_split(tmp_path / "none" / "split.json", {})


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"by": "holdout", "hold": ("P0",)}, "no condition holds the perturbation 'P0'"),
        ({"by": "covariate", "hold": ("NKT",)}, "no perturbed level 'NKT'.*mean 'NK'"),
        ({"by": "covariate", "covariate": "cell_typ"}, "no covariate with several levels.*mean 'cell_type'.*columns"),
        ({"by": "covariate", "hold": ("T", "B", "NK", "M")}, "holds out every level"),
        ({"by": "kfold", "folds": 99}, "too few to take turns"),
        ({"by": "kfold", "fold": 5}, "fold = 5 of cut.folds = 5: folds count from 0"),
    ],
)
def test_cuts_that_the_screen_cannot_take(knobs: dict, says: str) -> None:
    """One sentence for each, with what there is."""
    with pytest.raises(UserError, match=says):
        cut(**knobs)


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"cut.by": "covariate"}, "several levels: simulate several cell types, with --data.types 2"),
        ({"cut.by": "covariate", "cut.covariate": "line"}, "there is: none.*--data.types 2 or more"),
    ],
)
def test_a_simulated_screen_names_its_own_remedy(knobs: dict, says: str) -> None:
    """Where no file has columns, the way to several levels is the knob of the simulator, and that way works."""
    with pytest.raises(UserError, match=says):
        resolve_part("data", "screen", knobs).open()
    more = resolve_part("data", "screen", {"cut.by": "covariate", "types": 2, "cells": 8, "doubles": 0})
    assert more.open().division.scheme == "covariate cell_type"


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"test": 0.9, "valid": 0.1}, "leave nothing to train on"),
        ({"by": "file"}, "needs `file`"),
        ({"by": "kfold", "hold": ("A",)}, "does nothing"),
    ],
)
def test_knobs_that_contradict_each_other(knobs: dict, says: str) -> None:
    """Refused when they are given."""
    with pytest.raises(ValueError, match=says):
        ScreenCut(**knobs)


def test_too_few_doubles_are_refused() -> None:
    """Additive needs three doubles with both singles."""
    with pytest.raises(UserError, match="there are 1 of 2 combinations"):
        additive([("A",), ("B",), ("A", "B"), ("A", "C")], 0.3, 0.1, 42)
