"""Masked diffusion: what is hidden, what its reconstruction is compared with, and that nothing else is touched."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from core.nn.padding import centred
from core.train.streams import Streams
from plugins.losses.distance_mse import DistanceMse
from plugins.losses.mse import Mse
from plugins.systems.spatial.geometry import frames
from plugins.systems.spatial.masking import Masking, masked_losses
from test_system import trainer

law = settings(deadline=None, max_examples=25)
SHAPES = ["random", "block", "structured"]
seeds = st.integers(0, 2**32)


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cells(seed: int, sets: int, items: int, genes: int) -> tuple[dict[str, Tensor], Tensor]:
    """Noisy modalities of sets of cells, some of them padding at the end."""
    generator = rng(seed)
    fields = {
        "expression": torch.randn(sets, items, genes, generator=generator),
        "position": torch.randn(sets, items, 2, generator=generator),
    }
    many = torch.randint(1, items + 1, (sets, 1), generator=generator)
    return fields, torch.arange(items)[None] < many


@pytest.mark.parametrize("shape", SHAPES)
@law
@given(
    sets=st.integers(1, 4), items=st.integers(1, 12), genes=st.integers(1, 30), ratio=st.floats(0, 1),
    least=st.integers(0, 40), seed=seeds,
)  # fmt: skip
def test_exact_counts(shape: str, sets: int, items: int, genes: int, ratio: float, least: int, seed: int) -> None:
    """Of each real cell round(ratio G) genes are hidden, of each set round(ratio n) places, but never too few stay."""
    masking = Masking(shape=shape, expression=ratio, position=ratio, probability=1.0, min_visible=least)
    noisy, real = cells(seed, sets, items, genes)
    masks = masking.draw(noisy, noisy["position"], real, 0, rng(seed))
    wanted = max(0, min(round(ratio * genes), genes - least))
    assert (masks["expression"].sum(-1) == wanted * real).all()
    for b in range(sets):
        n = int(real[b].sum())
        assert int(masks["position"][b].sum()) == max(0, min(round(ratio * n), n - least))
    assert not masks["position"][~real].any()


@pytest.mark.parametrize("shape", SHAPES)
@law
@given(seed=seeds, step=st.integers(0, 30))
def test_masks_depend_on_the_stream_and_the_step_alone(shape: str, seed: int, step: int) -> None:
    """One stream and step, one mask, so a resumed run masks as one that was never stopped; sets differ."""
    masking = Masking(shape=shape, growth=20, probability=1.0, min_visible=1)
    noisy, real = cells(seed, 3, 20, 40)
    real = torch.ones_like(real)
    drawn = [masking.draw(noisy, noisy["position"], real, step, Streams(seed).generator("mask", step)) for _ in "ab"]
    for m in noisy:
        assert torch.equal(drawn[0][m], drawn[1][m])
    share = min(1.0, (step + 1) / 20)
    assert masking.ratio("expression", step) == pytest.approx(0.4 * share)
    assert int(drawn[0]["expression"][0, 0].sum()) == round(0.4 * share * 40)
    if step >= 10 and shape != "block":
        assert not torch.equal(drawn[0]["expression"][0], drawn[0]["expression"][1])
    if step >= 10:
        assert not torch.equal(drawn[0]["position"][0], drawn[0]["position"][1])


def test_shapes() -> None:
    """Blocks are one window of genes for a set and the cells nearest to one; structured masks hide the largest."""
    noisy, real = cells(1, 3, 30, 25)
    real = torch.ones_like(real)
    place = noisy["position"] + 5
    block = Masking(shape="block", probability=1.0).draw(noisy, place, real, 0, rng(1))
    for b in range(3):
        genes = block["expression"][b]
        assert (genes == genes[0]).all()
        window = torch.nonzero(genes[0])[:, 0]
        assert torch.equal(window, torch.arange(int(window[0]), int(window[0]) + 10))
        hidden = block["position"][b, :, 0]
        apart = torch.cdist(place[b], place[b])
        assert any(apart[i][hidden].max() < apart[i][~hidden].min() for i in range(30))
    largest = Masking(shape="structured", probability=1.0).draw(noisy, place, real, 0, rng(1))
    size = noisy["expression"].abs()
    floor = torch.where(largest["expression"], size, torch.inf).amin(-1)
    assert (torch.where(largest["expression"], -torch.inf, size).amax(-1) < floor).all()


def test_probability() -> None:
    """The share of batches that are masked is the probability; the others are not touched."""
    masking = Masking(shape="random", probability=0.3, min_visible=0)
    noisy, real = cells(1, 1, 4, 10)
    real = torch.ones_like(real)
    hits = [bool(masking.draw(noisy, noisy["position"], real, i, rng(i))["expression"].any()) for i in range(400)]
    assert 0.23 < sum(hits) / len(hits) < 0.37


@law
@given(seed=seeds, ratio=st.floats(0.2, 0.9))
def test_loss_on_hidden_entries_alone(seed: int, ratio: float) -> None:
    """The truth costs nothing; the loss is the mean over hidden entries; visible predictions get no gradient."""
    noisy, real = cells(seed, 3, 9, 12)
    data, _ = cells(seed + 1, 3, 9, 12)
    masking = Masking(shape="random", expression=ratio, position=ratio, probability=1.0, min_visible=1)
    masks = masking.draw(noisy, noisy["position"], real, 0, rng(seed))
    for m, losses in (("expression", (Mse(),)), ("position", (DistanceMse(), Mse()))):
        exact = masked_losses(m, losses, data[m], data[m], masks[m], real)
        assert all(value == 0 for value in exact.values())
        predicted = noisy[m].clone().requires_grad_()
        terms = masked_losses(m, losses, predicted, data[m], masks[m], real)
        torch.stack(list(terms.values())).sum().backward()
        assert predicted.grad is not None
        shown = ~masks[m].expand_as(predicted)
        assert (predicted.grad[shown] == 0).all()
        if m == "expression":
            by_set = [
                (noisy[m][b] - data[m][b])[masks[m][b]].square().mean() if masks[m][b].any() else torch.zeros(())
                for b in range(3)
            ]
            torch.testing.assert_close(terms["mse"].detach(), torch.stack(by_set).mean())


@pytest.mark.parametrize("dims", [2, 3])
def test_masked_positions_are_as_free_as_their_loss(dims: int) -> None:
    """A turned and mirrored truth costs nothing under a loss of distances, and something under one of coordinates."""
    place = torch.randn(2, 30, dims, generator=rng(0))
    turned = place @ frames(place, rng(1)) + 3
    hidden, real = torch.rand(2, 30, 1, generator=rng(2)) < 0.4, torch.ones(2, 30, dtype=torch.bool)
    terms = masked_losses("position", (DistanceMse(), Mse()), turned, place, hidden, real)
    assert terms["distance_mse"] < 1e-10
    assert terms["mse"] > 1


MASKED = ["--masking.shape=random", "--masking.min_visible=2", "--masking.probability=1"]


def test_hidden_values_never_reach_the_network() -> None:
    """The prediction of a masked step does not depend on the noisy values of what is hidden."""
    arm = trainer(MASKED)
    arm.model.eval()
    batch = arm.train_split.batch(0, 0)
    data = {m: batch.fields[m] for m in ("expression", "position")}
    hidden = {
        "expression": torch.rand(data["expression"].shape, generator=rng(3)) < 0.4,
        "position": torch.rand((*batch.real_BN.shape, 1), generator=rng(4)) < 0.4,
    }
    times = {m: torch.full((len(batch.real_BN),), 0.7) for m in data}
    junk = {m: torch.where(hidden[m], 9.0, x) for m, x in data.items()}
    one, _ = arm.system._denoise(arm.model, data, times, batch, masked=hidden)
    two, _ = arm.system._denoise(arm.model, junk, times, batch, masked=hidden)
    assert all(torch.equal(one[m], two[m]) for m in data)


def test_masked_loss_is_against_the_clean_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that knows the clean data has a masked loss of 0, however noisy its input."""
    arm = trainer(MASKED)
    batch = arm.train_split.batch(0, 0)
    clean = {"expression": batch.fields["expression"], "position": centred(batch.fields["position"], batch.real_BN)}
    seen = []

    def oracle(model: object, noisy: dict[str, Tensor], *given: object, **named: dict) -> tuple:
        seen.append((noisy, named["masked"]))
        return clean, arm.system.ffn.build(8)(torch.zeros(1, 1, 8))[1]

    monkeypatch.setattr(type(arm.system), "_denoise", lambda self, *given, **named: oracle(*given, **named))
    terms = arm.system.step(arm.model, batch, Streams(0), 0)
    told = {name: float(value) for name, value in terms.auxiliary.items() if name.startswith("masked/")}
    assert told.keys() == {"masked/expression/mse", "masked/position/distance_mse", "masked/position/mse"}
    assert all(value == pytest.approx(0, abs=1e-9) for value in told.values())
    noisy, masks = seen[0]
    assert all(masks[m].any() for m in masks)
    assert (noisy["expression"] - clean["expression"]).abs().mean() > 0.1


def test_arms_with_and_without_masking_start_alike() -> None:
    """Tokens are all that masking adds to a model, and nothing is masked when it is judged."""
    plain, masked = trainer([]), trainer(MASKED)
    left, right = (dict(arm.model.named_parameters()) for arm in (plain, masked))
    assert right.keys() - left.keys() == {"tokens.expression", "tokens.position"}
    assert all(torch.equal(left[name], right[name]) for name in left)
    batch = plain.train_split.batch(0, 0)
    terms = []
    for arm in (plain, masked):
        arm.model.eval()
        terms.append(arm.system.step(arm.model, batch, Streams(0), 0))
    assert terms[1].auxiliary == {}
    assert all(torch.equal(terms[0].losses[name], terms[1].losses[name]) for name in terms[0].losses)
