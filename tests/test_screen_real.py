"""Real screens: every file loads as what it is, and its effects are there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from core.train.streams import Streams
from plugins.data.perturb_h5ad import PerturbH5ad
from plugins.data.screen_asked import Asked
from plugins.data.screen_cut import ScreenCut
from plugins.data.screen_prepare import ScreenPrepare
from plugins.data.screen_sets import ScreenSets, ScreenSource
from realdata import realdata

FILES: dict[str, dict[str, Any]] = {
    "norman2019_train": {"cells": 2735, "genes": 500, "singles": 16, "doubles": 11, "split": "additive"},
    "papalexi2021_rep1_rep2": {"cells": 11433, "genes": 299, "singles": 25, "doubles": 0, "split": "kfold"},
    "kang2018_ifnb_subset": {"cells": 1556, "genes": 1000, "singles": 1, "doubles": 0, "split": "covariate"},
    "mcfaline2023_subset": {"cells": 2586, "genes": 500, "singles": 9, "doubles": 0, "split": "covariate"},
}


def opened(name: str, **knobs: Any) -> ScreenSource:
    path = realdata("perturbation", f"{name}.h5ad")
    groups = {"asked": Asked(), "sets": ScreenSets(), "cut": ScreenCut(), "prepare": ScreenPrepare()}
    return PerturbH5ad(path=str(path), **{**groups, **knobs}).open()


@pytest.mark.realdata
@pytest.mark.parametrize("name", FILES)
def test_card(name: str) -> None:
    """Cells, genes, conditions, a split that the screen can take, counts found as such, and where columns stand."""
    want, card = FILES[name], opened(name).describe()
    facts = card.facts
    assert sum(card.splits.values()) == facts["cells"] == want["cells"]
    assert card.sizes["genes"] == want["genes"]
    assert (facts["singles"], facts["doubles"]) == (want["singles"], want["doubles"])
    assert facts["split"].startswith(want["split"])
    assert facts["transform"].startswith("counts, found")
    assert facts["condition_from"] == "obs['perturbation'], found by its name"
    assert facts["source"]


@pytest.mark.realdata
def test_logarithms_of_the_same_cells_agree() -> None:
    """Norman's layer of logarithms is read as such, and tells the same zeros as the counts."""
    counts, logs = opened("norman2019_train"), opened("norman2019_train", layer="lognorm")
    assert logs.describe().facts["transform"].startswith("none, found")
    assert counts.preparation()["zero_rate"] == logs.preparation()["zero_rate"]
    one, other = (next(read.split("test", Streams(0)).units()).fields["expression"][0] for read in (counts, logs))
    present = (one > 0).any(dim=0)
    assert np.median([np.corrcoef(a, b)[0, 1] for a, b in zip(one[:, present], other[:, present], strict=True)]) > 0.8


@pytest.mark.realdata
def test_replicates_agree_on_strong_effects() -> None:
    """One replicate held out: the change from its own control cells is the same in both."""
    source = opened("papalexi2021_rep1_rep2", covariates=("bio_rep",), cut=ScreenCut(by="covariate", hold=("rep_2",)))
    means = {
        unit.units[0]: unit.fields["expression"][0].numpy().mean(0)
        for split in ("train", "valid", "test")
        for unit in source.split(split, Streams(0)).units()
    }
    assert {name.partition("|")[2] for name in source.division.units["test"]} == {"rep_2"}
    for name in ("JAK2", "STAT1", "IFNGR1"):
        one, other = (means[f"{name}|{rep}"] - means[f"control|{rep}"] for rep in ("rep_1", "rep_2"))
        assert np.corrcoef(one, other)[0, 1] > 0.7


@pytest.mark.realdata
def test_interferon_moves_the_held_out_type_as_the_others() -> None:
    """B cells are held out: the mean change of the other types tells theirs, from their own controls."""
    source = opened("kang2018_ifnb_subset", cut=ScreenCut(by="covariate", hold=("B cells",)))

    def change(unit: Any) -> np.ndarray:
        return (unit.fields["expression"][0] - unit.fields["control"][0]).numpy().mean(0)

    train = [change(u) for u in source.split("train", Streams(0)).units() if u.units[0].startswith("IFNB")]
    (test,) = source.split("test", Streams(0)).units()
    assert test.units == ("IFNB|B cells",)
    assert np.corrcoef(np.mean(train, axis=0), change(test))[0, 1] > 0.7
