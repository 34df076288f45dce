"""The spatial system and its encoder against the laws of their kinds, and what is particular to them."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from core.cli.choose import resolve_run
from core.errors import UserError
from core.kinds import Batch, Card
from core.testing.encoder import EncoderLaws
from core.testing.system import SystemLaws
from core.train.loop import Trainer
from core.train.streams import Streams
from plugins.encoders.cell import Cell
from plugins.encoders.expression import Expression
from plugins.systems.spatial.conditions import labels_of
from plugins.systems.spatial.fields import MODALITIES
from plugins.systems.spatial.geometry import frames
from small import SMALL

PIECES = [
    ["--attention=gated_headwise", "--ffn=moe4x2"],
    ["--attention=softmax", "--ffn=dense", "--path=cond_ot", "--solver=euler"],
    ["--attention=linear", "--gate=elementwise", "--ffn=moe2x1"],
    ["--attention=linear", "--gate=dual"],
    ["--position=direction_distance", "--mask=neighbours", "--mask.k=3", "--anchor=attention"],
    ["--attention=differential", "--position=fourier", "--sparsifier=entmax15"],
    ["--residual=layerscale", "--ffn=swiglu"],
    ["--residual=rezero(initial=0.5)", "--ffn=moe4x2(balance=bias,shared=1,capacity=0.8,activation=swiglu)"],
    ["--attention=gated_elementwise", "--data.dims=3", "--rotate=true", "--expression_dropout=0.3"],
    [
        "--mode=expr_to_pos",
        "--position_path=cosine(exponent=2)",
        "--position_head=edm",
        "--solver=heun",
        "--grid=late",
        "--recompute=true",
        "--ffn=moe4x2",
    ],
    ["--mode=pos_to_expr", "--masking.shape=block", "--masking.min_visible=4", "--readout=mean_of", "--draws=2"],
    ["--masking.shape=random", "--masking.min_visible=3", "--conditions=cell_type,section", "--predicts=velocity"],
    ["--position_head=edm", "--position_loss=distance_mse", "--masking.shape=structured", "--solver=ddim(eta=0.5)"],
    ["--backbone=alphastomics", "--attention=gated_headwise", "--ffn=moe4x2(activation=relu,balanced=first)"],
    ["--backbone=luna", "--mode=expr_to_pos", "--encoder=expression(hidden=32)", "--attention=linear(bias=false)"],
    ["--path=cond_ot", "--predicts=velocity", "--solver=ddim", "--conditions=section", "--readout=mean_of"],
]


def trainer(words: list[str]) -> Trainer:
    still = [] if any(word.startswith("--dropout") for word in words) else ["--dropout=0"]
    run = resolve_run([], [*SMALL, *still, *words]).root
    return Trainer(
        system=run.system,
        source=run.data.open(),
        settings=run.train,
        strategy=run.strategy,
        device=torch.device("cpu"),
        seed=run.seed,
    )


ENCODERS = [st.builds(Cell, hidden=st.floats(0.5, 3.0)), st.builds(Expression, hidden=st.integers(1, 9))]


@pytest.mark.parametrize("encoder", ENCODERS, ids=["cell", "expression"])
class TestEncoders(EncoderLaws):
    def card(self, draw: st.DataObject) -> Card:
        sizes = {"genes": draw.draw(st.integers(1, 5)), "dims": draw.draw(st.integers(2, 3))}
        return Card(name="drawn", sizes=sizes, splits={}, fingerprint="")

    def fields(self, card: Card, sets: int, items: int) -> dict[str, tuple[int, ...]]:
        return {"expression": (sets, items, card.sizes["genes"]), "position": (sets, items, card.sizes["dims"])}


@pytest.mark.parametrize("words", PIECES, ids=" ".join)
class TestSpatial(SystemLaws):
    def trainer(self, words: list[str]) -> Trainer:
        return trainer(words)

    def test_every_network_embeds(self, words: list[str]) -> None:
        """Whatever the backbone: a vector a cell at each layer, the same whenever asked, conditions told."""
        arm = trainer(words)
        unit = next(iter(arm.source.split("test", arm.streams).units()))
        for layer, needs in arm.system.layers().items():
            with arm.evaluating():
                found = [
                    arm.system.embed(arm.model, unit, layer, {*needs, *more}, patch=64) for more in ((), (), MODALITIES)
                ]
            assert np.isfinite(found).all()
            assert len(found[0]) == unit.real_BN.shape[1]
            assert (found[0] == found[1]).all()

    def test_a_clean_modality_is_returned_as_it_is(self, words: list[str]) -> None:
        """At t = 1 a prediction is its input, whatever the network says."""
        arm = trainer(words)
        batch = arm.train_split.batch(0, 0)
        data = {m: batch.fields[m] for m in ("expression", "position")}
        data["position"] = data["position"] - data["position"].mean(1, keepdim=True)
        times = {m: torch.ones(len(batch.real_BN)) for m in arm.system.learned}
        found, _ = arm.system._denoise(arm.model, data, times, batch)
        for m in times:
            more = found[m].shape[-1] - data[m].shape[-1]  # axes of an embedding, on which clean places are 0
            torch.testing.assert_close(found[m], torch.nn.functional.pad(data[m], (0, more)), rtol=1e-5, atol=1e-5)

    def test_pure_noise_is_ignored(self, words: list[str]) -> None:
        """At t = 0 the prediction does not depend on the noise, so the reported mean needs one call."""
        arm = trainer(words)
        arm.model.eval()
        batch, system = arm.train_split.batch(0, 0), attrs.evolve(arm.system, readout="one_call", draws=8)
        m = system.learned[-1]
        means = [system.expect(arm.model, batch, (m,), Streams(s).generator("x")) for s in (0, 1)]
        torch.testing.assert_close(means[0][m], means[1][m], rtol=1e-4, atol=1e-5)

    def test_sampling_is_a_function_of_the_generator_and_leaves_conditions_alone(self, words: list[str]) -> None:
        """One generator state, one sample, of exactly the announced field calls; given fields are not written to."""
        arm = trainer(words)
        arm.model.eval()
        batch = arm.train_split.batch(0, 0)
        before = {k: v.clone() for k, v in batch.fields.items()}
        calls = []
        handle = arm.model.register_forward_hook(lambda *_: calls.append(1))
        for wanted in {("position",), ("expression",), ("expression", "position"), arm.system.learned}:
            if not set(wanted) <= set(arm.system.learned):
                with pytest.raises(UserError, match="was asked for; train one with --mode joint"):
                    arm.system.sample(arm.model, batch, wanted, Streams(0).generator("eval"))
                continue
            calls.clear()
            with torch.no_grad():
                one, two, other = (
                    arm.system.sample(arm.model, batch, wanted, Streams(s).generator("eval")) for s in (0, 0, 1)
                )
            assert tuple(one) == wanted
            assert len(calls) == 3 * arm.system.solver.calls(arm.system.sampling)
            for m in wanted:
                assert torch.isfinite(one[m]).all()
                assert torch.equal(one[m], two[m])
                assert not torch.equal(one[m], other[m])
        handle.remove()
        assert all(torch.equal(before[k], v) for k, v in batch.fields.items())

    def test_cells_are_a_set(self, words: list[str]) -> None:
        """Permuting the cells of a set permutes what is predicted for them."""
        arm = trainer(words)
        arm.model.double().eval()
        batch = arm.train_split.batch(0, 0)
        fields = {k: v.double() if v.is_floating_point() else v for k, v in batch.fields.items()}
        batch = Batch(fields, batch.real_BN, batch.units)
        order = torch.randperm(batch.real_BN.shape[1], generator=Streams(0).generator("x"))
        there = Batch({k: v[:, order] for k, v in batch.fields.items()}, batch.real_BN[:, order], batch.units)
        times = {m: torch.full((len(batch.real_BN),), 0.6).double() for m in ("expression", "position")}
        one, _ = arm.model(shown(arm, batch), times, batch.real_BN)
        two, _ = arm.model(shown(arm, there), times, there.real_BN)
        for m in arm.system.learned:
            torch.testing.assert_close(two[m], one[m][:, order], rtol=1e-8, atol=1e-9)


def shown(arm: Trainer, batch: Batch) -> dict[str, Tensor]:
    """Both modalities as they are, and what conditions read."""
    labels = labels_of(arm.model)
    return {m: batch.fields[m] for m in MODALITIES} | ({} if labels is None else labels.codes(batch, None))


def test_expression_dropout_is_for_training_only() -> None:
    """Hidden values change a training step and no validation, are drawn from the step, and leave the target alone."""
    losses = {}
    for rate in ("0", "0.5"):
        arm = trainer([f"--expression_dropout={rate}"])
        batch = arm.train_split.batch(0, 0)
        for mode in (True, False):
            arm.model.train(mode)
            first, again, other = (
                float(arm.system.step(arm.model, batch, arm.streams, step).total().detach()) for step in (0, 0, 1)
            )
            assert first == again != other
            losses[rate, mode] = first
    assert losses["0", False] == losses["0.5", False]
    assert losses["0", True] != losses["0.5", True]


def test_frames_are_uniform_rotations_and_reflections() -> None:
    """Random frames are orthogonal, and about half of them mirror."""
    for dims in (2, 3):
        q = frames(torch.zeros(400, 5, dims), torch.Generator().manual_seed(0))
        torch.testing.assert_close(q @ q.mT, torch.eye(dims).expand(400, -1, -1), rtol=1e-5, atol=1e-5)
        mirrored = float((torch.linalg.det(q) < 0).float().mean())
        assert 0.4 < mirrored < 0.6
        assert q.mean(0).abs().max() < 0.15
