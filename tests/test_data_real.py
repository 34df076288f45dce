"""Real sections of tissue: every file loads as what it is."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsRegressor

from core.train.streams import Streams
from plugins.data.cut import Cut
from plugins.data.h5ad import H5ad
from plugins.data.prepare import Prepare
from plugins.data.sets import CellSource, Sets
from realdata import realdata

FILES = {
    "drosophila_bdtnp_3d": {"cells": 3039, "genes": 84, "dims": 3, "types": 0, "sections": 1, "transform": "none"},
    "merfish_mpoa_1section": {"cells": 6509, "genes": 155, "dims": 2, "types": 16, "sections": 1, "transform": "log1p"},
    "st_breast_4sections": {"cells": 1031, "genes": 6397, "dims": 2, "types": 0, "sections": 4, "transform": "counts"},
    "starmap_mpfc_BZ5_BZ9": {"cells": 2102, "genes": 166, "dims": 2, "types": 15, "sections": 2, "transform": "counts"},
}


def opened(name: str) -> CellSource:
    path = realdata("spatial", f"{name}.h5ad")
    return H5ad(path=str(path), sets=Sets(), cut=Cut(), prepare=Prepare()).open()


@pytest.mark.realdata
@pytest.mark.parametrize("name", FILES)
def test_card(name: str) -> None:
    """The card has the file's cells, genes, axes, types and sections, the right transform, a source and a unit."""
    want, card = FILES[name], opened(name).describe()
    assert card.sizes["genes"] == want["genes"]
    assert card.sizes["dims"] == want["dims"]
    assert card.sizes["cell_types"] == want["types"]
    assert sum(card.splits.values()) == card.facts["cells"] == want["cells"]
    assert len(card.facts["sections"]) == want["sections"]
    assert card.facts["transform"].startswith(f"{want['transform']}, because")
    assert card.facts["source"]
    assert card.facts["position_unit"]


@pytest.mark.realdata
@pytest.mark.parametrize("name", FILES)
def test_numbers(name: str) -> None:
    """An epoch's cells have mean 0 and, clipping aside, deviation 1, and positions of order 1."""
    source = opened(name)
    split = source.split("train", Streams(0))
    batches = [split.batch(0, i) for i in range(split.batches(0))]
    x = np.concatenate([batch.fields["expression"][batch.real_BN].numpy() for batch in batches])
    place = np.concatenate([batch.fields["position"][batch.real_BN].numpy() for batch in batches])
    assert len(x) == source.describe().splits["train"]
    assert np.abs(x).max() <= 10
    assert np.abs(x.mean(axis=0)).max() < 0.2
    assert np.median(x.std(axis=0)) == pytest.approx(1.0, abs=0.05)
    assert np.square(place).mean() == pytest.approx(1.0, rel=1e-3)


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["drosophila_bdtnp_3d", "merfish_mpoa_1section"])
def test_expression_tells_position(name: str) -> None:
    """Rows of expression and position belong together: neighbours in expression place cells above chance."""
    source = opened(name)
    (train,), (test,) = (list(source.split(split, Streams(0)).units()) for split in ("train", "test"))
    model = KNeighborsRegressor(15, weights="distance").fit(train.fields["expression"][0], train.fields["position"][0])
    error = np.square(model.predict(test.fields["expression"][0]) - test.fields["position"][0].numpy()).mean()
    assert error < 0.9
