"""Maps of attention and gates: what they hold, what they cost, and where there are none."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from core.cli.choose import resolve_run
from core.kinds import Batch, Evaluation
from core.train.streams import Streams
from plugins.systems.spatial import maps
from plugins.systems.spatial.maps import mapped
from plugins.systems.spatial.pictures import pictures
from small import SMALL


def network(*words: str) -> tuple[torch.nn.Module, Batch]:
    """An untrained network and a test section of 60 cells."""
    said = {word.split("=")[0] for word in words}
    run = resolve_run([], [*(word for word in SMALL if word.split("=")[0] not in said), *words]).root
    source = run.data.open()
    model = run.system.build(source.describe())
    Streams(0).initialise(model)
    return model.eval(), next(iter(source.split("test", Streams(0)).units()))


@pytest.mark.parametrize(
    "words",
    [
        ("--attention=gated_headwise",),
        ("--attention=gated_headwise", "--mask=neighbours(k=8)"),
        ("--attention=gated_elementwise", "--anchor=attention", "--depth=5"),
        ("--recipe=luna",),
        ("--recipe=alphastomics",),
    ],
    ids=str,
)
def test_what_cells_receive(words: tuple[str, ...]) -> None:
    """A value a cell for three layers at most, which average to the share that the cells get (anchors take the rest);
    gates lie in [0, 1]; mapping changes no prediction."""
    model, unit = network(*words)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plugins = [getattr(module, "plugin", None) for module in model.modules()]
    arrays, notes = mapped(model, unit, Streams(0))
    received = [values for name, values in arrays.items() if name.startswith("attention/")]
    gates = [values for name, values in arrays.items() if name.startswith("gate/")]
    if "--recipe=luna" in words:
        assert (received, len(notes)) == ([], 1)
        assert "forms no weight per pair" in notes[0]
    else:
        assert notes == []
        assert 1 <= len(received) <= 3
    for values in received:
        assert values.shape == (60,)
        assert (values >= 0).all()
        assert values.mean() <= 1 + 1e-5
        if not any("anchor" in word for word in words):
            assert values.mean() == pytest.approx(1.0, abs=1e-5)
    assert bool(gates) == ("--recipe=luna" not in words)
    for values in gates:
        assert values.shape == (60,)
        assert ((values >= 0) & (values <= 1)).all()
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert [getattr(module, "plugin", None) for module in model.modules()] == plugins
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_against_the_weights_by_hand() -> None:
    """The first layer's map is the column mean of its weights, times the number of cells."""
    model, unit = network("--attention=gated_headwise")
    attention = model.get_submodule("blocks.0.attention")
    seen: list[torch.Tensor] = []
    attention.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    arrays, _ = mapped(model, unit, Streams(0))
    name = unit.units[0]
    with torch.no_grad():
        q, k = (
            norm(projection(seen[0]).unflatten(-1, (2, -1))).double()
            for norm, projection in (
                (attention.query_norm, attention.query),
                (attention.key_norm, attention.key),
            )
        )
        weights = torch.softmax(torch.einsum("bqhk,bshk->bhqs", q, k) / q.shape[-1] ** 0.5, -1)
        gate = torch.sigmoid(attention.gate.weight @ seen[0][0].T + attention.gate.bias[:, None]).mean(0)
    np.testing.assert_allclose(arrays[f"attention/{name}/layer 0"], 60 * weights[0].mean((0, 1)), rtol=1e-4)
    np.testing.assert_allclose(arrays[f"gate/{name}/layer 0"], gate, rtol=1e-4)


def test_large_sections_are_thinned(monkeypatch: pytest.MonkeyPatch) -> None:
    """No more cells are shown than the bound, the same ones every time."""
    monkeypatch.setattr(maps, "CELLS", 20)
    model, unit = network()
    arrays, _ = mapped(model, unit, Streams(0))
    again, _ = mapped(model, unit, Streams(0))
    assert {values.shape[0] for values in arrays.values()} == {20}
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)
    true = {tuple(row) for row in unit.fields["position"][0].numpy().tolist()}
    assert {tuple(row) for row in arrays[f"seen/{unit.units[0]}"].tolist()} <= true


@pytest.mark.parametrize("axes", [2, 3])
def test_pictures(axes: int) -> None:
    """A panel a layer, with words to read it by; an even map has a colour scale too; nothing overlaps."""
    rng = np.random.default_rng(0)
    arrays = {"seen/A/s 1": rng.standard_normal((50, axes))}
    arrays |= {f"attention/A/s 1/layer {i}": rng.random(50) for i in (0, 2, 4)}
    arrays["gate/A/s 1/layer 0"] = np.full(50, 0.5)
    found = pictures(Evaluation(scores=(), arrays=arrays))
    assert [picture.name for picture in found] == ["attention_map", "gate_map"]
    assert [picture.title for picture in found] == [
        "Which cells attention reads in A/s 1",
        "Where gates are open in A/s 1",
    ]
    for picture, panels in zip(found, (3, 1), strict=True):
        assert "50 cells of A/s 1" in picture.caption
        figure = picture.draw()
        assert isinstance(figure, Figure)
        figure.draw_without_rendering()
        shown = [ax for ax in figure.axes if ax.collections and ax.get_title()]
        assert len(shown) == panels
        for ax in shown:
            low, high = ax.collections[0].get_clim()
            assert low < high
        boxes = [ax.get_window_extent() for ax in figure.axes if ax.axison]
        assert not any(a.fully_overlaps(b) for a, b in combinations(boxes, 2))
