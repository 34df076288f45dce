"""What every feed-forward network must do. B batch, T tokens, D width, E experts.

@pytest.mark.parametrize("ffn", [Dense(), st.builds(Dense, ratio=st.floats(0.5, 4))], ids=repr)
class TestDense(FFNLaws): ...
"""

from __future__ import annotations

from typing import ClassVar, Protocol

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from core.kinds.ffn import FFN
from core.testing.draws import (
    Drawable,
    close,
    coins,
    counted,
    drawn,
    gradients,
    law,
    randn,
    same_after_loading,
    seeds,
    started,
)
from core.train.streams import Streams

sizes = st.integers(1, 6)


class Mixture(Protocol):
    """A feed-forward network that sends each token to `top_k` of its `experts` and logs their `load`."""

    @property
    def experts(self) -> int: ...
    @property
    def top_k(self) -> int: ...
    def build(self, width: int) -> nn.Module: ...


class FFNLaws:
    """Laws of `core.kinds.ffn.FFN`; parametrise a subclass over `ffn`, a plugin or a strategy of plugins."""

    width: ClassVar[int] = 6

    @law
    @given(data=st.data(), batch=sizes, tokens=sizes, seed=seeds)
    def test_shape_and_dtype(self, ffn: Drawable[FFN], data: st.DataObject, batch: int, tokens: int, seed: int) -> None:
        """Shape and dtype are kept, also under autocast; what is said beside them is finite, losses scalar."""
        layer = drawn(data, ffn).build(self.width)
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            x_BTD = randn(seed, batch, tokens, self.width, dtype=dtype)
            for half in (False, dtype == torch.float32):
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    out_BTD, aux = started(layer, seed, dtype)(x_BTD)
                assert out_BTD.shape == x_BTD.shape
                assert out_BTD.dtype == dtype
                assert torch.isfinite(out_BTD).all()
                assert all(loss.shape == () and loss >= 0 and torch.isfinite(loss) for loss in aux.losses.values())
                assert all(torch.isfinite(stat).all() and not stat.requires_grad for stat in aux.stats.values())

    @law
    @given(data=st.data(), batch=sizes, tokens=sizes, seed=seeds)
    def test_own_token(self, ffn: Drawable[FFN], data: st.DataObject, batch: int, tokens: int, seed: int) -> None:
        """In evaluation a token's output, and the gradient of it, are those of that token alone."""
        layer = started(drawn(data, ffn).build(self.width), seed)
        x_BTD = randn(seed, batch, tokens, self.width).requires_grad_()
        out_BTD, _ = layer(x_BTD)
        b, t = data.draw(st.integers(0, batch - 1)), data.draw(st.integers(0, tokens - 1))
        token_D = x_BTD[b, t].detach().clone().requires_grad_()
        alone_D = layer(token_D[None, None])[0][0, 0]
        (slope_BTD,), (slope_D,) = gradients(out_BTD[b, t], [x_BTD]), gradients(alone_D, [token_D])
        expected_BTD = torch.zeros_like(slope_BTD)
        expected_BTD[b, t] = slope_D
        close([out_BTD[b, t], slope_BTD], [alone_D, expected_BTD])

    @law
    @given(data=st.data(), batch=sizes, tokens=sizes, seed=seeds)
    def test_padding(self, ffn: Drawable[FFN], data: st.DataObject, batch: int, tokens: int, seed: int) -> None:
        """Padding, whatever it holds, changes neither real outputs nor losses, statistics or gradients.

        They are what the real tokens give when they come alone, without padding.
        """
        layer = started(drawn(data, ffn).build(self.width), seed)
        real_BT = coins(seed + 1, batch, tokens)
        x_BTD = randn(seed, batch, tokens, self.width)
        alone = _outcome(layer, x_BTD[real_BT][None], None)
        for content in (0.0, 1e30, float("nan")):
            padded = _outcome(layer, x_BTD.masked_fill(~real_BT[..., None], content), real_BT)
            assert (padded[1][~real_BT] == 0).all()
            padded[1] = padded[1][real_BT][None]
            close(padded, alone)

    @law
    @given(data=st.data(), seed=seeds)
    def test_nothing_real(self, ffn: Drawable[FFN], data: st.DataObject, seed: int) -> None:
        """A batch of padding only gives finite losses, statistics and gradients."""
        layer = started(drawn(data, ffn).build(self.width), seed)
        outcome = _outcome(layer, randn(seed, 2, 3, self.width), torch.zeros(2, 3, dtype=torch.bool))
        assert all(torch.isfinite(tensor).all() for tensor in outcome)

    @law
    @given(data=st.data(), batch=sizes, tokens=sizes, seed=seeds)
    def test_randomness(self, ffn: Drawable[FFN], data: st.DataObject, batch: int, tokens: int, seed: int) -> None:
        """In training a step's numbers come from the module's own streams, and the global state stays untouched."""
        layer = started(drawn(data, ffn).build(self.width), seed).train()
        before, outcomes = torch.get_rng_state(), []
        for _ in range(2):
            Streams(seed).reseed(layer, step=3)
            outcomes.append(_outcome(layer, randn(seed, batch, tokens, self.width), None))
        assert torch.equal(torch.get_rng_state(), before)
        close(outcomes[1], outcomes[0], tolerance=0.0)

    @law
    @given(data=st.data(), batch=sizes, tokens=sizes, seed=seeds)
    def test_gradients(self, ffn: Drawable[FFN], data: st.DataObject, batch: int, tokens: int, seed: int) -> None:
        """Gradients of tokens and parameters agree with finite differences."""
        layer = started(drawn(data, ffn).build(self.width), seed)
        named = dict(layer.named_parameters())
        inputs = [randn(seed, batch, tokens, self.width), *(parameter.detach() for parameter in named.values())]

        def run(x_BTD: Tensor, *values: Tensor) -> Tensor:
            return torch.func.functional_call(layer, dict(zip(named, values, strict=True)), (x_BTD,))[0]

        assert torch.autograd.gradcheck(run, [tensor.requires_grad_() for tensor in inputs], fast_mode=True)

    @law
    @given(data=st.data(), batch=sizes, tokens=sizes, seed=seeds)
    def test_state(self, ffn: Drawable[FFN], data: st.DataObject, batch: int, tokens: int, seed: int) -> None:
        """A layer that loads the state of another, trained for a step or not, is that layer."""
        plugin, x_BTD = drawn(data, ffn), randn(seed, batch, tokens, self.width)
        layer, fresh = (started(plugin.build(self.width), seed + i) for i in range(2))
        if data.draw(st.booleans(), label="trained"):
            layer.train()(x_BTD)
        same_after_loading(layer.eval(), fresh, lambda one: [one(x_BTD)[0]])

    @law
    @given(data=st.data(), batch=sizes, tokens=sizes, padded=st.booleans())
    def test_meta(self, ffn: Drawable[FFN], data: st.DataObject, batch: int, tokens: int, padded: bool) -> None:
        """A layer builds and runs without memory, in training."""
        with torch.device("meta"):
            layer = drawn(data, ffn).build(self.width)
            real_BT = torch.empty(batch, tokens, dtype=torch.bool) if padded else None
            out_BTD, aux = layer(torch.empty(batch, tokens, self.width), real_BT)
        assert out_BTD.is_meta
        assert out_BTD.shape == (batch, tokens, self.width)
        assert all(loss.shape == () for loss in aux.losses.values())

    @law
    @given(data=st.data(), batch=sizes, tokens=sizes, width=st.integers(1, 9), meta=st.booleans())
    def test_closed_forms(
        self, ffn: Drawable[FFN], data: st.DataObject, batch: int, tokens: int, width: int, meta: bool
    ) -> None:
        """`params` and `flops` are what counters find, in a real pass and in one without memory."""
        plugin = drawn(data, ffn)
        with torch.device("meta" if meta else "cpu"):
            layer = plugin.build(width).eval()
            counted("params", plugin.params(width), sum(p.numel() for p in layer.parameters()))
            with FlopCounterMode(display=False) as counter:
                layer(torch.zeros(batch, tokens, width))
        counted("flops", plugin.flops(width, batch * tokens), counter.get_total_flops())


class MixtureLaws:
    """Further laws of mixtures of experts; parametrise a subclass over `ffn`, as for `FFNLaws`."""

    width: ClassVar[int] = 6

    @law
    @given(data=st.data(), batch=sizes, tokens=sizes, seed=seeds)
    def test_top_k(self, ffn: Drawable[Mixture], data: st.DataObject, batch: int, tokens: int, seed: int) -> None:
        """Each token uses exactly `top_k` different experts, and the load counts them all."""
        plugin = drawn(data, ffn)
        layer = started(plugin.build(self.width), seed)
        x_BTD = randn(seed, batch, tokens, self.width)
        chosen_E = torch.zeros(plugin.experts, dtype=torch.float64)
        for token_D in x_BTD.flatten(0, 1):
            load_E = layer(token_D[None, None])[1].stats["load"]
            assert int((load_E > 0).sum()) == plugin.top_k
            close([load_E[load_E > 0]], [torch.full((plugin.top_k,), 1 / plugin.top_k, dtype=torch.float64)])
            chosen_E += load_E
        close([layer(x_BTD)[1].stats["load"]], [chosen_E / (batch * tokens)])


def _outcome(layer: nn.Module, x_BTD: Tensor, real_BT: Tensor | None) -> list[Tensor]:
    """Losses and statistics, the output, and gradients of output and losses together for the parameters."""
    out_BTD, aux = layer(x_BTD, real_BT)
    said = torch.stack([*aux.losses.values(), out_BTD.new_zeros(())])
    kept = out_BTD if real_BT is None else out_BTD[real_BT]
    slopes = gradients(torch.cat([said, kept.flatten()]), list(layer.parameters()))
    stats = [stat.flatten() for stat in aux.stats.values()]
    return [torch.cat([said.detach(), *stats]), out_BTD.detach(), *slopes]
