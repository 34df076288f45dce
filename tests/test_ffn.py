"""Feed-forward networks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path

import attrs
import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from core.cli.choose import resolve_run
from core.kinds import FFN
from core.testing.draws import close, coins, gradients, law, randn, seeds, started
from core.testing.ffn import FFNLaws, MixtureLaws
from core.train.between import tell_step_taken
from core.train.loop import Trainer
from core.train.streams import Streams
from plugins.ffn._grouped import BLOCK
from plugins.ffn._router import timetable
from plugins.ffn.dense import ACTIVATIONS, Dense
from plugins.ffn.moe import Moe, MoeLayer
from plugins.ffn.swiglu import Swiglu, swiglu
from small import SMALL

activations = st.sampled_from(sorted(ACTIVATIONS))
inner_activations = st.sampled_from([*sorted(ACTIVATIONS), "swiglu"])
dropouts = st.sampled_from([0.0, 0.5])


@st.composite
def moes(draw: st.DrawFn) -> Moe:
    experts = draw(st.integers(1, 5))
    top_k = draw(st.integers(1, experts))
    z_weight = draw(st.sampled_from([0.0, 0.1]))
    balance = draw(st.sampled_from(["loss", "bias", "none"] if top_k < experts else ["loss"]))
    counts = balance == "loss" and 1 < top_k < experts
    return Moe(
        experts=experts,
        top_k=top_k,
        balanced=draw(st.sampled_from(["chosen", "first"] if counts else ["chosen"])),
        ratio=draw(st.floats(0.5, 5.0)),
        shared=draw(st.integers(0, 2)),
        activation=draw(inner_activations),
        dropout=draw(dropouts),
        jitter=draw(st.sampled_from([0.0, 0.1] if experts > 1 or z_weight else [0.0])),
        noise=draw(st.sampled_from([0.0, 0.1] if experts > 1 or z_weight else [0.0])),
        capacity=draw(st.sampled_from([None, 0.3, 1.0] if top_k < experts else [None, 0.3])),
        balance=balance,
        z_weight=z_weight,
    )


denses = st.builds(Dense, ratio=st.floats(0.1, 5.0), activation=activations, dropout=dropouts)
swiglus = st.builds(Swiglu, ratio=st.floats(0.1, 5.0), dropout=dropouts)


@pytest.mark.parametrize("ffn", [denses, swiglus, moes()], ids=["dense", "swiglu", "moe"])
class TestFFNs(FFNLaws):
    """The laws of feed-forward networks."""


@pytest.mark.parametrize("ffn", [moes()], ids=["moe"])
class TestMixtures(MixtureLaws):
    """The laws of mixtures of experts."""


def by_hand(layer: MoeLayer, x_BTD: Tensor, lost_NK: Tensor | None = None) -> Tensor:
    """Every expert computes every token; the tokens that did not choose it, or were lost, give it a weight of 0."""
    plugin, experts = layer.plugin, layer.experts
    activation = swiglu if plugin.activation == "swiglu" else ACTIVATIONS[plugin.activation]
    logits_BTE = x_BTD @ layer.router.weight.T
    offset_E = torch.zeros(plugin.experts) if layer.router.offset_E is None else layer.router.offset_E
    chosen_BTK = (logits_BTE + offset_E).topk(plugin.top_k).indices
    chosen_BTE = F.one_hot(chosen_BTK, plugin.experts).sum(2) > 0
    weights_BTE = torch.where(chosen_BTE, logits_BTE, float("-inf")).softmax(-1)
    if lost_NK is not None:
        lost_NE = torch.zeros_like(chosen_BTE[0]).scatter(-1, chosen_BTK[0], lost_NK)
        weights_BTE = weights_BTE.masked_fill(lost_NE[None], 0.0)
    inner_BTEF = torch.einsum("btd,edf->btef", x_BTD, experts.up_EDF)
    inner_BTEF = inner_BTEF if experts.up_bias_EF is None else inner_BTEF + experts.up_bias_EF
    out_BTED = torch.einsum("btef,efd->bted", activation(inner_BTEF), experts.down_EFD)
    out_BTED = out_BTED if experts.down_bias_ED is None else out_BTED + experts.down_bias_ED
    out_BTD = (weights_BTE[..., None] * out_BTED).sum(2)
    return out_BTD if layer.shared is None else out_BTD + layer.shared(x_BTD)[0]


@law
@given(plugin=moes(), batch=st.integers(1, 4), tokens=st.integers(1, 9), seed=seeds)
def test_grouped_execution_equals_the_dense_mixture(plugin: Moe, batch: int, tokens: int, seed: int) -> None:
    """Values and gradients are those of all experts on all tokens, weighted; with top_k = experts too."""
    layer = started(plugin.build(6), seed)
    if layer.router.offset_E is not None:
        layer.router.offset_E.copy_(randn(seed + 2, plugin.experts))
    x_BTD = randn(seed, batch, tokens, 6).requires_grad_()
    inputs = [x_BTD, *layer.parameters()]
    fast, slow = layer(x_BTD)[0], by_hand(layer, x_BTD)
    close([fast, *gradients(fast, inputs)], [slow, *gradients(slow, inputs)])


@pytest.mark.parametrize("tokens", [BLOCK // 2, BLOCK + 3])
def test_many_tokens_are_read_in_blocks(tokens: int) -> None:
    """Gradients of a batch that fills blocks of rows to the last one, and of one that does not, are the same sums."""
    layer = started(Moe(experts=4, top_k=2).build(6), 0)
    x_BTD = randn(0, 1, tokens, 6).requires_grad_()
    inputs = [x_BTD, *layer.parameters()]
    fast, slow = layer(x_BTD)[0], by_hand(layer, x_BTD)
    close([fast, *gradients(fast, inputs)], [slow, *gradients(slow, inputs)])


@pytest.mark.parametrize("activation", ["gelu", "swiglu"])
def test_gradients_of_gradients(activation: str) -> None:
    """First and second derivatives agree with finite differences."""
    layer = started(Moe(experts=3, top_k=2, shared=1, ratio=2.0, activation=activation).build(4), 0)
    x_BTD, names = randn(1, 1, 3, 4).requires_grad_(), [n for n, _ in layer.named_parameters()]

    def out(x_BTD: Tensor, *values: Tensor) -> Tensor:
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), (x_BTD,))[0]

    inputs = (x_BTD, *layer.parameters())
    assert torch.autograd.gradcheck(out, inputs)
    assert torch.autograd.gradgradcheck(out, inputs)


@law
@given(seed=seeds, ratio=st.floats(0.5, 4.0), activation=activations)
def test_one_expert_is_the_dense_network(seed: int, ratio: float, activation: str) -> None:
    """A mixture with one expert equals the dense network of the same knobs and weights."""
    dense = started(Dense(ratio=ratio, activation=activation).build(6), seed)
    moe = started(Moe(experts=1, top_k=1, ratio=ratio, activation=activation).build(6), seed)
    with torch.no_grad():
        moe.experts.up_EDF[0], moe.experts.up_bias_EF[0] = dense.up.weight.T, dense.up.bias
        moe.experts.down_EFD[0], moe.experts.down_bias_ED[0] = dense.down.weight.T, dense.down.bias
    x_BTD = randn(seed, 2, 5, 6)
    close([moe(x_BTD)[0]], [dense(x_BTD)[0]])


@pytest.mark.parametrize("experts", [1, 2, 4, 8])
def test_all_experts_together_are_as_large_as_the_dense_network(experts: int) -> None:
    """The weight matrices of the experts hold as many numbers as those of the dense network of the same ratio."""
    moe, dense = Moe(experts=experts, top_k=1, ratio=4.0).build(16), Dense(ratio=4.0).build(16)
    size = moe.experts.up_EDF.numel() + moe.experts.down_EFD.numel()
    assert size == dense.up.weight.numel() + dense.down.weight.numel() == 2 * 16 * 64


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_a_token_pays_for_its_own_experts_only(top_k: int) -> None:
    """Experts that a token did not choose cost nothing: router, and top_k of 4 experts' share of the dense cost."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        Moe(experts=4, top_k=top_k).build(16)(torch.empty(2, 10, 16))
    assert counter.get_total_flops() == 2 * 20 * (16 * 4 + top_k * 2 * 16 * 16)


def routed(logits_NE: Tensor, **given: object) -> MoeLayer:
    """A mixture whose router gives exactly these logits to the unit tokens e_1 .. e_N."""
    layer = started(Moe(experts=logits_NE.shape[1], **given).build(logits_NE.shape[0]), 0)
    with torch.no_grad():
        layer.router.weight.copy_(logits_NE.T)
    return layer


def balance(layer: MoeLayer, real_BT: Tensor | None = None) -> float:
    """The unweighted balance loss of the unit tokens."""
    tokens = layer.router.weight.shape[1]
    _, aux = layer(torch.eye(tokens, dtype=torch.float64)[None], real_BT)
    return float(aux.losses["balance"].detach()) / layer.plugin.balance_weight


def test_balance_loss_at_its_ends() -> None:
    """It is 1 where the router is even and the number of experts where one expert takes all."""
    assert balance(routed(torch.zeros(8, 4), top_k=2)) == pytest.approx(1)
    assert balance(routed(1e3 * torch.eye(4).repeat(2, 1), top_k=1)) == pytest.approx(1)
    assert balance(routed(1e3 * torch.eye(4)[:1].repeat(8, 1), top_k=1)) == pytest.approx(4)


@law
@given(seed=seeds, experts=st.integers(2, 5))
def test_sure_routing_is_cheapest_when_balanced(seed: int, experts: int) -> None:
    """For a sure router the loss is E sum f^2, never below 1, and 1 exactly where the load is even."""
    wanted_N = torch.randint(experts, (2 * experts,), generator=torch.Generator().manual_seed(seed))
    share_E = torch.bincount(wanted_N, minlength=experts) / len(wanted_N)
    loss = balance(routed(1e3 * F.one_hot(wanted_N, experts).double(), top_k=1))
    assert loss == pytest.approx(float(experts * share_E.square().sum()))
    assert loss >= 1 - 1e-9
    assert (loss < 1 + 1e-9) == bool((share_E == 1 / experts).all())


@law
@given(seed=seeds, top_k=st.integers(1, 4))
def test_balance_loss_ignores_order_and_padding(seed: int, top_k: int) -> None:
    """Renaming the experts leaves the loss as it is, and it is a function of the real tokens alone."""
    logits_NE, real_N = randn(seed, 9, 4), coins(seed, 9)
    real_N[0] = True
    whole = balance(routed(logits_NE, top_k=top_k))
    assert balance(routed(logits_NE[:, [2, 0, 3, 1]], top_k=top_k)) == pytest.approx(whole)
    changed_NE = torch.where(real_N[:, None], logits_NE, 50 * randn(seed + 1, 9, 4))
    kept = balance(routed(logits_NE, top_k=top_k), real_N[None])
    assert balance(routed(changed_NE, top_k=top_k), real_N[None]) == pytest.approx(kept)


def test_losses_are_those_that_were_asked_for() -> None:
    """Balance and router z-loss come weighted, by name, and only where they are switched on."""
    logits_NE, x_BTD = randn(0, 7, 3), torch.eye(7, dtype=torch.float64)[None]
    assert routed(logits_NE, balance="none")(x_BTD)[1].losses == {}
    both = routed(logits_NE, balance_weight=0.5, z_weight=0.25)(x_BTD)[1].losses
    assert sorted(both) == ["balance", "router_z"]
    plain = routed(logits_NE, balance_weight=1.0)(x_BTD)[1].losses
    load_E = torch.bincount(logits_NE.topk(2).indices.flatten(), minlength=3).double() / 14
    close([plain["balance"]], [3 * (load_E * logits_NE.softmax(-1).mean(0)).sum()])
    close([both["balance"]], [0.5 * plain["balance"]])
    close([both["router_z"]], [0.25 * logits_NE.exp().sum(-1).log().square().mean()])


def test_balance_loss_moves_tokens_off_the_busy_expert() -> None:
    """Its gradient lowers the logit of an expert that has more than its share, for every token."""
    layer = routed(torch.tensor([[2.0, 1.0, 0.0]] * 6), top_k=1)
    aux = layer(torch.eye(6, dtype=torch.float64)[None])[1]
    (slope_EN,) = torch.autograd.grad(aux.losses["balance"], [layer.router.weight])
    assert (slope_EN[0] > 0).all()
    assert (slope_EN[1:] < 0).all()


def test_jitter_is_for_training() -> None:
    """Router noise acts in training, differs from step to step, and is absent in evaluation."""
    layer, x_BTD = started(Moe(jitter=0.5, z_weight=1.0).build(6), 0), randn(0, 2, 9, 6)

    def z_loss(step: int) -> float:
        Streams(0).reseed(layer, step)
        return float(layer(x_BTD)[1].losses["router_z"].detach())

    calm = {z_loss(step) for step in range(3)}
    layer.train()
    noisy = {z_loss(step) for step in (0, 1, 2, 0)}
    assert len(calm) == 1
    assert len(noisy) == 3
    assert not calm & noisy


@pytest.fixture
def _two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_two_threads")
def test_runs_are_bit_identical() -> None:
    """With two threads, values and gradients of a large batch are the same to the last bit from run to run."""
    layer = started(Moe(experts=4, top_k=3).build(32), 0, torch.float32)
    x_BTD = randn(0, 2, 4000, 32, dtype=torch.float32).requires_grad_()
    real_BT = coins(0, 2, 4000, heads=0.9)
    inputs = [x_BTD, *layer.parameters()]
    runs = []
    for _ in range(3):
        out_BTD, aux = layer(x_BTD, real_BT)
        runs.append([out_BTD, *gradients(torch.cat([out_BTD.flatten(), aux.losses["balance"][None]]), inputs)])
    for again in runs[1:]:
        assert all(torch.equal(one, other) for one, other in zip(runs[0], again, strict=True))


def test_top_k_beyond_the_experts_is_refused() -> None:
    """More experts a token than there are is a ValueError that gives the span and the value."""
    with pytest.raises(ValueError, match="top_k must be between 1 and experts=4, got 5"):
        Moe(experts=4, top_k=5)


@pytest.mark.parametrize("ffn", [Dense(), Moe()], ids=repr)
def test_padding_comes_out_as_zeros(ffn: FFN) -> None:
    """A padded token's output is exactly 0."""
    real_BT = torch.tensor([[True, False, True], [False, False, True]])
    out_BTD, _ = started(ffn.build(6), 0)(randn(0, 2, 3, 6), real_BT)
    assert (out_BTD[~real_BT] == 0).all()
    assert (out_BTD[real_BT] != 0).any()


def test_bias_moves_towards_idle_experts_once_a_step() -> None:
    """However many passes a step has, the offset moves by its rate, up where the load is below the mean."""
    logits_NE = torch.tensor([[3.0, 2.0, 1.0, 0.0]] * 4 + [[0.0, 1.0, 2.0, 3.0]] * 2)
    layer = routed(logits_NE, top_k=1, balance="bias", bias_rate=0.25)
    x_BTD = torch.eye(6, dtype=torch.float64)[None]
    tell_step_taken(layer)
    layer(x_BTD)
    tell_step_taken(layer)
    assert torch.equal(layer.router.offset_E, torch.zeros(4, dtype=torch.float64))
    layer.train()
    for passes in (1, 3):
        before_E = layer.router.offset_E.clone()
        for _ in range(passes):
            assert layer(x_BTD)[1].losses == {}
            assert torch.equal(layer.router.offset_E, before_E)
        tell_step_taken(layer)
        assert torch.equal(layer.router.offset_E, before_E + 0.25 * torch.tensor([-1.0, 1.0, 1.0, -1.0]))
    tell_step_taken(layer)
    assert torch.equal(layer.router.offset_E, 0.5 * torch.tensor([-1.0, 1.0, 1.0, -1.0], dtype=torch.float64))


def test_an_even_load_leaves_the_bias_alone() -> None:
    """Where every expert has exactly the mean load nothing moves, also where a third has no binary fraction."""
    layer = routed(5.0 * torch.eye(3), top_k=1, balance="bias").train()
    layer(torch.eye(3, dtype=torch.float64)[None])
    tell_step_taken(layer)
    assert torch.equal(layer.router.offset_E, torch.zeros(3, dtype=torch.float64))


def test_the_bias_chooses_and_does_not_weigh() -> None:
    """An offset sends the token to another expert, whose weight is still a softmax of bare logits."""
    layer = routed(torch.tensor([[2.0, 1.0, 0.0]]), top_k=2, balance="bias")
    layer.router.offset_E.copy_(torch.tensor([0.0, -3.0, 0.0]))
    choice = layer.router(torch.ones(1, 1, dtype=torch.float64))
    assert choice.expert_NK.tolist() == [[0, 2]]
    close([choice.weight_NK], [torch.tensor([[2.0, 0.0]], dtype=torch.float64).softmax(-1)])


def test_the_bias_evens_the_load_without_a_loss() -> None:
    """Tokens that all prefer one expert are spread over all of them after enough steps."""
    layer = routed(torch.tensor([2.0, 0.0, 0.0, 0.0]) + 0.5 * randn(0, 64, 4), top_k=1, balance="bias", bias_rate=0.05)
    x_BTD, loads = torch.eye(64, dtype=torch.float64)[None], []
    for _ in range(100):
        loads.append(layer.train()(x_BTD)[1].stats["load"])
        tell_step_taken(layer)
    assert float(loads[0].max()) > 0.9
    assert float(loads[-1].max()) < 0.35


def test_the_bias_is_state_and_no_parameter() -> None:
    """It travels with the state dict, no optimiser sees it, and without balance by bias there is none."""
    source, target = (Moe(balance="bias").build(6) for _ in range(2))
    source.router.offset_E.copy_(torch.arange(4))
    target.load_state_dict(source.state_dict())
    assert torch.equal(target.router.offset_E, torch.arange(4.0))
    assert not [n for n, _ in source.named_parameters() if "offset" in n]
    assert Moe().build(6).state_dict().keys() == source.state_dict().keys() - {"router.offset_E"}


def crowded(capacity: float) -> MoeLayer:
    """Four tokens that prefer expert 0 more and more, and two that prefer expert 1."""
    logits_NE = torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0], [3.0, 0.0], [0.0, 1.0], [0.0, 2.0]])
    return routed(logits_NE, top_k=1, capacity=capacity).train()


def test_capacity_keeps_the_surest_tokens() -> None:
    """Expert 0 has room for 2 of its 4 tokens and takes those of the largest weight; ties go to the earlier token."""
    x_BTD = torch.eye(6, dtype=torch.float64)[None]
    layer = crowded(0.5)
    out_BTD, aux = layer(x_BTD)
    # With one expert a token every weight is 1, so the first two of expert 0 stay.
    assert (out_BTD[0].abs().sum(-1) > 0).tolist() == [True, True, False, False, True, True]
    assert float(aux.stats["dropped"]) == pytest.approx(2 / 6)
    close([aux.stats["load"]], [torch.tensor([4 / 6, 2 / 6], dtype=torch.float64)])
    surest = routed(torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0], [3.0, 0.0]]), top_k=2, capacity=0.5).train()
    choice = surest.router(torch.eye(4, dtype=torch.float64))
    plan = timetable(choice, 2, 0.5)
    kept = [plan.source_R[begin:end].tolist() for begin, end in plan.spans]
    assert kept == [[2, 3], [0, 1]]


@law
@given(plugin=moes(), tokens=st.integers(1, 20), capacity=st.floats(0.05, 1.5), seed=seeds)
def test_capacity_drops_rows_and_changes_nothing_else(plugin: Moe, tokens: int, capacity: float, seed: int) -> None:
    """In training values and gradients are those of the full mixture with zeros in place of each dropped row.

    Every expert computes its tokens up to the capacity and none beyond; in evaluation all are computed.
    """
    assume(capacity < 1 or plugin.top_k < plugin.experts)
    layer = started(attrs.evolve(plugin, capacity=capacity, dropout=0.0, jitter=0.0, noise=0.0).build(6), seed)
    x_BTD = randn(seed, 1, tokens, 6).requires_grad_()
    rows = tokens * plugin.top_k
    room = max(1, math.ceil(capacity * rows / plugin.experts))
    choice = layer.router(x_BTD[0])
    plan = timetable(choice, plugin.experts, capacity)
    assert [end - begin for begin, end in plan.spans] == [min(int(c), room) for c in plan.counts_E]
    assert plan.dropped == pytest.approx(sum(max(0, int(c) - room) for c in plan.counts_E) / rows)
    kept_R = torch.zeros(rows)
    for begin, end in plan.spans:
        kept_R[begin:end] = 1.0
    lost_NK = kept_R[plan.target_NK] == 0
    inputs = [x_BTD, *layer.parameters()]
    fast, slow = layer.train()(x_BTD)[0], by_hand(layer, x_BTD, lost_NK)
    close([fast, *gradients(fast, inputs)], [slow, *gradients(slow, inputs)])
    close([layer.eval()(x_BTD)[0]], [by_hand(layer, x_BTD)])


@pytest.mark.parametrize("batch", [(0, 5), (2, 0), (1, 1)], ids=str)
@pytest.mark.parametrize("balance", ["loss", "bias"])
def test_few_tokens_or_none(batch: tuple[int, int], balance: str) -> None:
    """An empty batch and one token have finite losses, statistics and gradients, in training as in evaluation."""
    layer = started(Moe(shared=1, capacity=0.1, balance=balance, z_weight=0.1).build(6), 0)
    for training in (True, False):
        x_BTD = randn(0, *batch, 6).requires_grad_()
        out_BTD, aux = layer.train(training)(x_BTD)
        total = out_BTD.sum() + sum(aux.losses.values())
        slopes = torch.autograd.grad(total, [x_BTD, *layer.parameters()])
        assert out_BTD.shape == x_BTD.shape
        assert all(torch.isfinite(t).all() for t in (total, *slopes, *aux.stats.values()))
        tell_step_taken(layer)


@pytest.mark.parametrize("size", [1e4, 1e12, 1e30, float("inf")])
def test_huge_logits(size: float) -> None:
    """Logits of any size, infinite ones of either sign too, give finite weights, losses and router gradients."""
    layer = started(Moe(experts=4, top_k=2, z_weight=0.1).build(4), 0, torch.float32)
    with torch.no_grad():
        layer.router.weight.copy_(torch.tensor([[size], [-size], [size], [1.0]]).expand(4, 4))
    x_BTD = torch.full((1, 5, 4), 0.5)
    out_BTD, aux = layer(x_BTD)
    (slope_ED,) = torch.autograd.grad(out_BTD.sum() + sum(aux.losses.values()), [layer.router.weight])
    assert all(torch.isfinite(t).all() for t in (out_BTD, *aux.losses.values(), slope_ED))
    choice = layer.router(x_BTD[0])
    assert sorted(choice.expert_NK[0].tolist()) == [0, 2]
    assert choice.weight_NK[0].tolist() == [0.5, 0.5]


def test_swiglu_is_its_formula() -> None:
    """W2 (silu(W x) * V x) with W and V the halves of the first matrix; as large as `dense` but for biases."""
    layer, x_BTD = started(Swiglu().build(6), 0), randn(0, 2, 3, 6)
    w_FD, v_FD = layer.up.weight.chunk(2)
    gate_BTF = x_BTD @ w_FD.T
    close([layer(x_BTD)[0]], [(gate_BTF * torch.sigmoid(gate_BTF) * (x_BTD @ v_FD.T)) @ layer.down.weight.T])
    assert Swiglu().params(96) == 2 * 96 * 4 * 96
    assert Swiglu().flops(96, 7) == Dense().flops(96, 7)


def test_shared_experts_take_their_part_of_the_size() -> None:
    """Two routed and two shared experts are as large as four routed ones but for biases, and a token pays three."""
    four, two = Moe(experts=4, top_k=1), Moe(experts=2, top_k=1, shared=2)
    assert two.inner(16) == four.inner(16) == 16
    assert two.params(16) == four.params(16) - 2 * 16 - 16
    assert two.flops(16, 5) == 2 * 5 * 16 * (2 + 3 * 2 * 16)


def test_any_number_of_experts_is_counted_without_memory() -> None:
    """A billion experts are built and run on the meta device, and cost a token no more than two."""
    plugin = Moe(experts=10**9, top_k=2, balance="bias")
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        layer = plugin.build(16)
        layer(torch.empty(2, 3, 16))
    assert sum(p.numel() for p in layer.parameters()) == plugin.params(16)
    assert counter.get_total_flops() == plugin.flops(16, 6)


def test_a_training_step_of_two_passes_moves_the_bias_once() -> None:
    """With gradient accumulation and validation the offsets of every layer move by their rate a step, not a pass."""
    run = resolve_run(
        [], [*SMALL, "--ffn=moe4x1(balance=bias,bias_rate=0.25)", "--train.accumulate=2", "--train.steps=2"]
    ).root
    trainer = Trainer(
        system=run.system,
        source=run.data.open(),
        settings=run.train,
        strategy=run.strategy,
        device=torch.device("cpu"),
        seed=0,
    )
    for step in (1, 2):
        trainer.step()
        trainer.validate()
        offsets = [v for n, v in trainer.strategy.gather(trainer.model).items() if n.endswith("offset_E")]
        assert len(offsets) == run.system.depth
        steps = torch.stack(offsets) / 0.25
        assert torch.equal(steps, steps.round())
        assert int(steps.abs().max()) == step


def _process(rank: int, store: str, told: SimpleQueue) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    layer = routed(torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]] * 2), top_k=1, balance="bias", bias_rate=1.0).train()
    x_BTD = torch.eye(5, dtype=torch.float64)[None]
    layer(x_BTD[:, :3] if rank == 0 else x_BTD[:, 3:])
    tell_step_taken(layer)
    told.put(layer.router.offset_E.tolist())
    torch.distributed.destroy_process_group()


def test_the_bias_follows_the_load_of_all_processes(tmp_path: Path) -> None:
    """Two processes, each of which sees one expert only, agree on the offsets of their common load of 3 to 2."""
    context = get_context("fork")
    told = context.SimpleQueue()
    children = [context.Process(target=_process, args=(rank, str(tmp_path / "store"), told)) for rank in range(2)]
    for child in children:
        child.start()
    for child in children:
        child.join(60)
        assert child.exitcode == 0
    assert [told.get() for _ in children] == [[-1.0, 1.0]] * 2


def test_a_load_of_first_choices() -> None:
    """Counting first choices, the balance is 1 for an even router and E for a sure one, and padding does not count."""
    moe = Moe(experts=4, top_k=2, balanced="first", balance_weight=1.0)
    layer = started(moe.build(4), 0)
    with torch.no_grad():
        layer.router.weight.copy_(50.0 * torch.eye(4))
    even_BTD = torch.eye(4, dtype=torch.float64)[None]
    sure_BTD = even_BTD[:, :1].expand(-1, 8, -1)
    close([layer(even_BTD)[1].losses["balance"]], [torch.ones((), dtype=torch.float64)])
    close([layer(sure_BTD)[1].losses["balance"]], [torch.full((), 4.0, dtype=torch.float64)])
    real_BT = torch.arange(12)[None] < 4
    padded_BTD = torch.cat([even_BTD, sure_BTD], 1)
    close([layer(padded_BTD, real_BT)[1].losses["balance"]], [torch.ones((), dtype=torch.float64)])
    load_E = layer(sure_BTD)[1].stats["load"]
    assert float(load_E[0]) == 0.5, "the load that is told counts all that are chosen"


@torch.no_grad()
def test_noise_of_the_router() -> None:
    """In training logits get noise * N(0, 1) * softplus(W_n x), drawn anew at each step; in evaluation nothing."""
    noisy, plain = (started(Moe(noise=noise).build(6), 0) for noise in (0.5, 0.0))
    x_ND = randn(1, 4000, 6)
    close([noisy.router(x_ND).logits_NE], [plain.router(x_ND).logits_NE])
    noisy.train()
    Streams(0).reseed(noisy, 3)
    added_NE = noisy.router(x_ND).logits_NE - plain.router(x_ND).logits_NE
    standard_NE = added_NE / (0.5 * torch.nn.functional.softplus(x_ND @ noisy.router.noise_weight.T))
    assert abs(float(standard_NE.mean())) < 0.03
    assert abs(float(standard_NE.std()) - 1.0) < 0.03
    Streams(0).reseed(noisy, 3)
    close([noisy.router(x_ND).logits_NE], [plain.router(x_ND).logits_NE + added_NE], tolerance=0.0)
    Streams(0).reseed(noisy, 4)
    assert not torch.equal(noisy.router(x_ND).logits_NE - plain.router(x_ND).logits_NE, added_NE)
