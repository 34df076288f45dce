"""What every pooling must do. B batch, T tokens, S tokens of another set, D width.

@pytest.mark.parametrize("pooling", [Mean(), Sequence()], ids=repr)
class TestPoolings(PoolingLaws): ...
"""

from __future__ import annotations

import attrs
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from core.kinds.pooling import Pooling
from core.testing.anchor import WILD
from core.testing.draws import Drawable, close, coins, drawn, gradients, law, randn, reached, seeds, started


@attrs.frozen
class Case:
    """A pooling's plugin and module, tokens, which are real, and marks of another set or none."""

    plugin: Pooling
    module: nn.Module
    x_BTD: Tensor
    real_BT: Tensor
    marks: dict[str, Tensor]


class PoolingLaws:
    """Laws of `core.kinds.pooling.Pooling`; parametrise a subclass over `pooling`, a plugin or a strategy of them."""

    @law
    @given(data=st.data(), seed=seeds, tokens=st.integers(0, 6))
    def test_shape_and_dtype(self, pooling: Drawable[Pooling], data: st.DataObject, seed: int, tokens: int) -> None:
        """One finite vector of `out_width` a set, of the dtype of the tokens, for any number of them."""
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            case = _case(pooling, data, seed, tokens, dtype)
            for autocast in (False, dtype == torch.float32):
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    found = case.module(case.x_BTD, None, case.marks)
                assert found.shape == (len(case.x_BTD), case.module.out_width)
                assert found.dtype == dtype
                assert torch.isfinite(found).all()

    @law
    @given(data=st.data(), seed=seeds)
    def test_half_precision(self, pooling: Drawable[Pooling], data: st.DataObject, seed: int) -> None:
        """Tokens in bfloat16 give the vector of those tokens, up to the rounding of parameters and result."""
        case = _case(pooling, data, seed, 6, torch.float32)
        case.module.bfloat16()
        half_BTD, marks = case.x_BTD.bfloat16(), {}
        if case.marks:
            marks = case.marks | {"other": case.marks["other"].bfloat16()}
        found = case.module(half_BTD, case.real_BT, marks).float()
        wide = {k: v.float() if v.is_floating_point() else v for k, v in marks.items()}
        written = case.module.float()(half_BTD.float(), case.real_BT, wide)
        torch.testing.assert_close(found, written, rtol=0.01, atol=0.01)

    @law
    @given(data=st.data(), seed=seeds, tokens=st.integers(1, 6), content=st.sampled_from(WILD))
    def test_padding(
        self, pooling: Drawable[Pooling], data: st.DataObject, seed: int, tokens: int, content: float
    ) -> None:
        """Values and gradients are those of the real tokens alone, whatever padding holds; a set of none is zeros."""
        case = _case(pooling, data, seed, tokens)
        parameters = list(case.module.parameters())
        planted = torch.where(case.real_BT[..., None], case.x_BTD, content).requires_grad_()
        marks = dict(case.marks)
        if marks:
            marks["other"] = torch.where(marks["other_real"][..., None], marks["other"], content)
        found = case.module(planted, case.real_BT, marks)
        slopes = gradients(found, [planted, *parameters])
        assert (slopes[0][~case.real_BT] == 0).all()
        assert (found[~case.real_BT.any(1)] == 0).all()
        alone = []
        for i, (x_TD, real_T) in enumerate(zip(case.x_BTD, case.real_BT, strict=True)):
            mine = {}
            if marks:
                there = marks["other_real"][i]
                mine = {"other": case.marks["other"][i : i + 1, there], "other_real": there[None, there]}
            alone.append(case.module(x_TD[None, real_T], None, mine) if real_T.any() else torch.zeros_like(found[:1]))
        close([found], [torch.cat(alone)])
        close(slopes[1:], gradients(torch.cat(alone), parameters))

    @law
    @given(data=st.data(), seed=seeds, tokens=st.integers(1, 6))
    def test_order(self, pooling: Drawable[Pooling], data: st.DataObject, seed: int, tokens: int) -> None:
        """Unless the pooling says that order matters, permuting the tokens changes nothing."""
        case = _case(pooling, data, seed, tokens)
        order = torch.randperm(tokens, generator=torch.Generator().manual_seed(seed))
        if not case.plugin.ordered:
            there = case.module(case.x_BTD[:, order], case.real_BT[:, order], case.marks)
            close([there], [case.module(case.x_BTD, case.real_BT, case.marks)])

    @law
    @given(data=st.data(), seed=seeds, tokens=st.integers(1, 6))
    def test_between(self, pooling: Drawable[Pooling], data: st.DataObject, seed: int, tokens: int) -> None:
        """A weighted mean lies between the least and the greatest real token in every channel."""
        case = _case(pooling, data, seed, tokens)
        found = case.module(case.x_BTD, case.real_BT, case.marks)
        if case.plugin.weighted_mean:
            assert case.module.out_width == case.x_BTD.shape[-1]
            some_B = case.real_BT.any(1)
            hidden = ~case.real_BT[..., None]
            least = case.x_BTD.masked_fill(hidden, torch.inf).amin(1)
            greatest = case.x_BTD.masked_fill(hidden, -torch.inf).amax(1)
            assert (found >= least - 1e-12)[some_B].all()
            assert (found <= greatest + 1e-12)[some_B].all()

    @law
    @given(data=st.data(), seed=seeds, tokens=st.integers(1, 5))
    def test_gradients(self, pooling: Drawable[Pooling], data: st.DataObject, seed: int, tokens: int) -> None:
        """Gradients agree with finite differences; with two tokens or more each parameter gets one."""
        case = _case(pooling, data, seed, tokens)
        x_BTD = case.x_BTD.requires_grad_()
        assert torch.autograd.gradcheck(lambda x: case.module(x * 1.0, case.real_BT, case.marks), (x_BTD,))
        if tokens > 1:
            slopes = gradients(case.module(x_BTD, None, case.marks), list(case.module.parameters()))
            reached(case.module, slopes)

    @law
    @given(data=st.data(), seed=seeds, size=st.sampled_from([1e6, 1e30]))
    def test_large_tokens(self, pooling: Drawable[Pooling], data: st.DataObject, seed: int, size: float) -> None:
        """The vector of finite tokens is finite, however large the tokens are."""
        case = _case(pooling, data, seed, 4, torch.float32)
        marks = case.marks | ({"other": case.marks["other"] * size} if case.marks else {})
        assert torch.isfinite(case.module(case.x_BTD * size, case.real_BT, marks)).all()

    @law
    @given(data=st.data(), seed=seeds)
    def test_state(self, pooling: Drawable[Pooling], data: st.DataObject, seed: int) -> None:
        """A pooling that loads the state of another is that pooling."""
        case = _case(pooling, data, seed, 4)
        fresh = case.plugin.build(case.x_BTD.shape[-1]).double()
        fresh.load_state_dict(case.module.state_dict())
        assert torch.equal(fresh(case.x_BTD, None, case.marks), case.module(case.x_BTD, None, case.marks))

    @law
    @given(data=st.data())
    def test_meta(self, pooling: Drawable[Pooling], data: st.DataObject) -> None:
        """A pooling builds and runs without memory."""
        with torch.device("meta"):
            module = drawn(data, pooling).build(6)
            found = module(torch.empty(2, 5, 6), torch.ones(2, 5, dtype=torch.bool))
        assert found.is_meta
        assert found.shape == (2, module.out_width)


def _case(
    pooling: Drawable[Pooling], data: st.DataObject, seed: int, tokens: int, dtype: torch.dtype = torch.float64
) -> Case:
    """A pooling as training may have left it, with or without another set beside the tokens."""
    plugin, batch, width = drawn(data, pooling), data.draw(st.integers(1, 3)), data.draw(st.integers(3, 5))
    module = started(plugin.build(width), seed, dtype)
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.add_(randn(seed + 4 + i, *parameter.shape, dtype=dtype))
    marks = {}
    if data.draw(st.booleans()):
        sources = data.draw(st.integers(2, 4))
        real_BS = coins(seed + 2, batch, sources)
        real_BS[:, :2] = True  # one token alone has no weights to learn
        marks = {"other": randn(seed + 3, batch, sources, width, dtype=dtype), "other_real": real_BS}
    return Case(plugin, module, randn(seed, batch, tokens, width, dtype=dtype), coins(seed + 1, batch, tokens), marks)
