"""Figures of the spatial system: which are made, what they show, and how large they are."""

from __future__ import annotations

import io
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from core.cli.choose import resolve_run
from core.kinds.system import Evaluation, Picture, Score
from core.train.streams import Streams
from plugins.systems.spatial.made import NEAR, types_of
from plugins.systems.spatial.pictures import align, pictures
from plugins.systems.spatial.watch import watching
from small import SMALL

ARMS = {
    "model": 0.1,
    "model, one sample": 0.3,
    "nearest cell": 0.5,
    "ridge": 0.4,
    "mean position": 1.0,
    "ceiling": 0.01,
}
SCORES = {
    "expression to position": [
        ("distance_spearman", True, "Spearman of distances (median cell)"),
        ("rssd", False, "RSSD"),
    ],
    "position to expression": [("pearson_gene", True, "Pearson across cells (mean gene)")],
}


def evaluation(cells: int = 60, axes: int = 2, types: int = 11, units: int = 3, genes: int = 4) -> Evaluation:
    """What a spatial evaluation keeps; the model is best on the last unit and ridge is the best baseline."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {
        "cell_types": np.array([f"type {i}" for i in range(types)], dtype=str),
        "genes": np.array([f"GENE{i}" for i in range(genes)]),
    }
    for u in range(units):
        true = rng.standard_normal((cells, axes)) * np.arange(2, axes + 2)
        arrays[f"true/slice {u}"] = true
        arrays[f"type/slice {u}"] = (
            np.minimum(rng.geometric(0.3, cells) - 2, types - 1) if types else np.full(cells, -1)
        )
        for arm, noise in ARMS.items():
            off = noise * rng.standard_normal(true.shape)
            arrays[f"placed/{arm}/slice {u}"] = np.zeros_like(true) if arm == "mean position" else 3 * (true + off) + 7
        arrays[f"expression_true/slice {u}"] = rng.standard_normal((cells, genes))
        arrays[f"expression_model/slice {u}"] = np.zeros((cells, genes))
        for arm, error in (("model", 0.4), ("nearest 15 cells", 0.6)):
            arrays[f"expression_error/{arm}/slice {u}"] = np.full(cells, error)
        if u < 2:
            arrays[f"made_place/slice {u}"] = rng.standard_normal((cells // 2, axes))
            arrays[f"made_expression/slice {u}"] = rng.standard_normal((cells // 2, genes))
            arrays[f"made_type/slice {u}"] = rng.integers(types, size=cells // 2) if types else np.full(cells // 2, -1)
        arrays[f"way/slice {u}"] = np.stack([share * true for share in (0.0, 0.5, 0.9)])
        arrays[f"experts/slice {u}/layer 1"] = np.full((max(types, 1), 4), 0.25)
    scores = []
    for task, metrics in SCORES.items():
        for arm, noise in ARMS.items():
            for metric, higher, label in metrics:
                by_unit = {f"slice {u}": (1 - noise + 0.01 * u) * (1 if higher else -9) for u in range(units)}
                value = float(np.mean(list(by_unit.values())))
                scores.append(
                    Score(task=task, arm=arm, metric=metric, value=value, higher=higher, label=label, units=by_unit)
                )
    return Evaluation(scores=tuple(scores), arrays=arrays)


def texts(figure: Figure) -> str:
    """Every word on a figure."""
    words = [text.get_text() for ax in figure.axes for text in (ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts)]
    words += [label.get_text() for ax in figure.axes for label in (*ax.get_yticklabels(), *ax.get_xticklabels())]
    words += [text.get_text() for legend in figure.legends for text in legend.get_texts()]
    return "\n".join(words)


def svg(picture: Picture) -> bytes:
    """The file a report would hold."""
    buffer = io.BytesIO()
    picture.draw().savefig(buffer, format="svg")
    return buffer.getvalue()


def by_name(found: list[Picture]) -> dict[str, Picture]:
    return {picture.name: picture for picture in found}


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("types", [0, 1, 30])
def test_every_picture_draws(axes: int, types: int) -> None:
    """All are made and drawn for flat and deep tissue and any number of cell types, with words to read them by."""
    found = pictures(evaluation(axes=axes, types=types))
    assert [p.name for p in found] == [
        "tissue", "genes", *(["types"] if types else []), "way", *(["space"] if axes == 3 else []),
        *(["experts"] if types else []), "made", "scores_expression_to_position", "scores_position_to_expression",
    ]  # fmt: skip
    for picture in found:
        assert isinstance(picture.draw(), Figure)
        assert svg(picture).startswith(b"<?xml")
        assert picture.title
        assert len(picture.caption) > 100


def test_pyplot_holds_nothing() -> None:
    """Drawing leaves no figure behind in pyplot."""
    from matplotlib import pyplot

    for picture in pictures(evaluation()):
        picture.draw()
    assert pyplot.get_fignums() == []


def test_tissue_says_what_it_shows() -> None:
    """The tissue shows truth, model and best baseline of the middle unit, each with the score of that unit."""
    picture = by_name(pictures(evaluation()))["tissue"]
    figure = picture.draw()
    assert "slice 1" in picture.title
    assert [ax.get_title() for ax in figure.axes] == ["truth", "model", "model, one sample", "baseline: ridge"]
    assert [ax.get_xlabel() for ax in figure.axes] == ["", "Spearman 0.91", "Spearman 0.71", "Spearman 0.61"]
    assert {(ax.get_xlim(), ax.get_ylim()) for ax in figure.axes} == {
        (figure.axes[0].get_xlim(), figure.axes[0].get_ylim())
    }
    assert all(ax.get_aspect() == 1 for ax in figure.axes)


def test_made_cells_stand_beside_a_true_section() -> None:
    """Types and genes of both, in one frame and one set of colours; another unit's where the typical one has none."""
    data = evaluation(types=3)
    picture = by_name(pictures(data))["made"]
    axes = picture.draw().axes[:6]
    assert "slice 1" in picture.title
    assert "one of 30" in picture.caption
    assert [ax.get_ylabel() for ax in axes[::2]] == ["cell type", "GENE0", "GENE1"]
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in axes}) == 1
    counts = [len(ax.collections[0].get_offsets()) for ax in axes]
    assert counts == [60, 30] * 3
    del data.arrays["made_place/slice 1"]
    assert "slice 0" in by_name(pictures(data))["made"].title
    del data.arrays["made_place/slice 0"]
    assert "made" not in by_name(pictures(data))


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 5), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_types_of_made_cells(made: int, known: int, types: int, seed: int) -> None:
    """The commonest type of the 15 nearest known cells whose type is known; the first of equals; -1 where none is."""
    rng = np.random.default_rng(seed)
    made_MG, known_nG = rng.standard_normal((made, 3)), rng.standard_normal((known, 3))
    type_n = rng.integers(-1, types, size=known)
    typed = np.flatnonzero(type_n >= 0)
    for x_G, found in zip(made_MG, types_of(made_MG, known_nG, type_n), strict=True):
        order = typed[np.argsort(np.square(known_nG[typed] - x_G).sum(1))][:NEAR]
        votes = Counter(type_n[order].tolist())
        assert found == (min(votes, key=lambda t: (-votes[t], t)) if votes else -1)


def test_tissue_colours() -> None:
    """The most frequent types have a colour each and the rest share grey, all named in the legend."""
    data = evaluation(cells=400, types=11)
    data.arrays["type/slice 1"] = np.arange(400) % 11
    data.arrays["type/slice 1"][:33] = -1
    figure = by_name(pictures(data))["tissue"].draw()
    words = [text.get_text() for text in figure.legends[0].get_texts()]
    assert words[8:] == ["3 other types", "type unknown"]
    assert set(words[:8]) < {f"type {i}" for i in range(11)}
    assert len(np.unique(figure.axes[0].collections[0].get_facecolors(), axis=0)) == 10
    assert figure.legends[0].get_window_extent().y1 < min(ax.get_window_extent().y0 for ax in figure.axes)


def test_tissue_without_types() -> None:
    """Without cell types the true place colours the cells, and a bar says so."""
    picture = by_name(pictures(evaluation(types=0)))["tissue"]
    assert "Colour is the true place" in picture.caption
    assert "true place along the longest axis" in texts(picture.draw())


def test_depth_has_its_own_row() -> None:
    """Tissue with depth is seen along two axes; flat tissue with a constant third coordinate along one."""
    data = evaluation(axes=3)
    picture = by_name(pictures(data))["tissue"]
    assert len(picture.draw().axes) == 8
    assert "upper row" in picture.caption
    data.arrays["true/slice 1"][:, 2] = 5.0
    assert len(by_name(pictures(data))["tissue"].draw().axes) == 4


def test_nothing_is_cut() -> None:
    """Titles, labels and legends lie inside the figure and no panel reaches into another."""
    for data in (evaluation(), evaluation(axes=3, types=0), evaluation(types=30, units=1)):
        for picture in pictures(data):
            figure = picture.draw()
            figure.draw_without_rendering()
            for ax in figure.axes:
                for text in (ax.title, ax.xaxis.label, ax.yaxis.label):
                    box = text.get_window_extent()
                    assert not text.get_text() or figure.bbox.padded(1).fully_contains(box.x0, box.y0)
                    assert not text.get_text() or figure.bbox.padded(1).fully_contains(box.x1, box.y1)
            for a, b in combinations([ax.get_window_extent() for ax in figure.axes], 2):
                assert not a.fully_overlaps(b)


def test_genes_share_a_scale() -> None:
    """Measured and predicted values of a gene have one colour scale, and a constant prediction reads r = 0."""
    figure = by_name(pictures(evaluation()))["genes"].draw()
    measured, predicted = figure.axes[:4], figure.axes[4:8]
    for above, below in zip(measured, predicted, strict=True):
        assert above.collections[0].get_clim() == below.collections[0].get_clim()
        assert below.get_title() == "r = 0.00"
    assert [ax.get_title() for ax in measured] == [f"GENE{i}" for i in range(4)]


def test_scores_name_every_arm() -> None:
    """Each task has every arm with its value, ceiling and model first, and an arrow to the better side."""
    figure = by_name(pictures(evaluation()))["scores_expression_to_position"].draw()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "ceiling", "model", "model, one sample", "nearest cell", "ridge", "mean position",
    ]  # fmt: skip
    assert [ax.get_xlabel() for ax in figure.axes] == ["better →", "← better"]
    assert {"0.910", "0.610", "1.000"} < {text.get_text() for text in figure.axes[0].texts}


def test_missing_arrays() -> None:
    """What the arrays do not hold is not drawn: without positions only the scores are left."""
    data = evaluation()
    some = {name: array for name, array in data.arrays.items() if not name.startswith("expression_")}
    assert "genes" not in by_name(pictures(Evaluation(scores=data.scores, arrays=some)))
    assert len(pictures(Evaluation(scores=data.scores))) == 2
    assert pictures(Evaluation(scores=())) == []


def test_another_judge() -> None:
    """Without Spearman the tissue is labelled with the first score of placements, and its direction is kept."""
    data = evaluation()
    scores = tuple(s for s in data.scores if s.metric != "distance_spearman")
    figure = by_name(pictures(Evaluation(scores=scores, arrays=data.arrays)))["tissue"].draw()
    assert figure.axes[1].get_xlabel() == "RSSD -8.19"


def test_small_files() -> None:
    """8,000 cells make files below 400 kB."""
    for picture in pictures(evaluation(cells=8000, units=1)):
        assert len(svg(picture)) < 400_000, picture.name


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_align(axes: int) -> None:
    """A turned, mirrored, scaled and shifted copy of the truth is brought back onto it; one spot goes to its middle."""
    rng = np.random.default_rng(axes)
    true = rng.standard_normal((50, axes)) + 4
    turn = np.linalg.qr(rng.standard_normal((axes, axes)))[0]
    for mirror in (1.0, -1.0):
        turn[0] *= mirror
        np.testing.assert_allclose(align(0.01 * true @ turn - 30, true), true, atol=1e-10)
    np.testing.assert_allclose(align(np.full_like(true, 0.1), true), np.tile(true.mean(0), (50, 1)), atol=1e-12)
    poor = align(rng.standard_normal(true.shape), true)
    assert poor.std() == pytest.approx((true - true.mean(0)).std(), rel=0.1)


def test_errors_by_type() -> None:
    """Each type stands with its mean error, model beside kNN, the most frequent first and with its number of cells."""
    data = evaluation(types=3)
    kind = data.arrays["type/slice 1"] = np.arange(60) % 3 - (np.arange(60) > 55)
    data.arrays["expression_error/model/slice 1"] = np.where(kind == 2, 0.9, 0.1)
    axes = by_name(pictures(data))["types"].draw().axes
    found = dict(
        zip(
            [t.get_text().split(" (")[0] for t in axes[-1].get_yticklabels()],
            axes[-1].lines[0].get_xdata(),
            strict=True,
        )
    )
    assert found["type 2"] == pytest.approx(0.9)
    assert found["type 0"] == pytest.approx(0.1)
    assert axes[-1].get_yticklabels()[-1].get_text() == f"type 2 ({(kind == 2).sum()})"


def test_a_sample_ends_beside_the_truth_whatever_its_frame() -> None:
    """The way is shown in the frame of the truth, to which the sample is turned as a whole."""
    data = evaluation(axes=2)
    true = data.arrays["true/slice 1"]
    turn = np.array([[0.0, 1.0], [1.0, 0.0]])
    data.arrays["placed/model, one sample/slice 1"] = true @ turn
    data.arrays["way/slice 1"] = np.stack([0.0 * true, 0.5 * true @ turn])
    axes = by_name(pictures(data))["way"].draw().axes
    middle, sample, truth = [np.asarray(ax.collections[0].get_offsets()) for ax in axes]
    np.testing.assert_allclose(sample, truth, atol=1e-9)
    np.testing.assert_allclose(middle - middle.mean(0), (truth - truth.mean(0)) / 2, atol=1e-9)


def test_watching_a_sample() -> None:
    """The states on the way and each type's experts are seen, rows sum to 1, and watching changes no sample."""
    run = resolve_run([], [*SMALL, "--ffn=moe4x2"]).root
    source = run.data.open()
    model = run.system.build(source.describe())
    Streams(0).initialise(model)
    unit = next(iter(source.split("test", Streams(0)).units()))
    with torch.no_grad():
        plain = run.system.sample(model.eval(), unit, ("position",), Streams(0).generator("x"))
        with watching(model) as watch:
            again = run.system.sample(model, unit, ("position",), Streams(0).generator("x"))
    assert torch.equal(plain["position"], again["position"])
    assert watch.way().shape == (2, 60, 2)
    shares = watch.experts(unit.fields["cell_type"][0].numpy())
    assert set(shares) == {"layer 0", "layer 1"}
    for share in shares.values():
        assert share.shape[1] == 4
        np.testing.assert_allclose(share.sum(1)[share.any(1)], 1.0, rtol=1e-5)
