"""How a layer's output joins its input."""

from __future__ import annotations

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from core.cli.choose import resolve_run
from core.kinds import Aux, Layout, Residual
from core.testing.draws import close, randn, started
from core.testing.residual import ResidualLaws
from core.train.loop import Trainer
from plugins.backbones.cells import Block
from plugins.residuals.layerscale import LayerScale
from plugins.residuals.plain import Plain
from plugins.residuals.rezero import ReZero
from small import SMALL

INITIAL = st.floats(-2, 2)


@pytest.mark.parametrize(
    "residual", [Plain(), st.builds(LayerScale, initial=INITIAL), st.builds(ReZero, initial=INITIAL)], ids=repr
)
class TestResiduals(ResidualLaws):
    """The laws of residuals."""


@pytest.mark.parametrize(
    ("residual", "count", "scale"), [(Plain(), 0, 1.0), (LayerScale(), 6, 0.01), (ReZero(), 1, 0.0)], ids=repr
)
def test_start(residual: Residual, count: int, scale: float) -> None:
    """`plain` adds all, `layerscale` a hundredth channel by channel, `rezero` nothing at first."""
    module = started(residual.build(6), 0)
    assert sum(p.numel() for p in module.parameters()) == count
    x_BTD, out_BTD = randn(0, 2, 3, 6), randn(1, 2, 3, 6)
    close([module(x_BTD, out_BTD)], [x_BTD + scale * out_BTD], 1e-8)


def test_each_channel_has_its_own_scale() -> None:
    """`layerscale` multiplies channel i by its scale i."""
    module = started(LayerScale().build(4), 0)
    with torch.no_grad():
        module.scale_D.copy_(torch.arange(4))
    assert torch.equal(module(torch.zeros(1, 1, 4), torch.ones(1, 1, 4)), torch.arange(4.0)[None, None])


def trainer(*words: str) -> Trainer:
    run = resolve_run([], [*SMALL, "--train.steps=3", *words]).root
    return Trainer(
        system=run.system,
        source=run.data.open(),
        settings=run.train,
        strategy=run.strategy,
        device=torch.device("cpu"),
        seed=run.seed,
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_plain_is_what_the_spatial_block_did_before(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses and weights of three steps are bit-equal to a written-out sum, and no parameter is called otherwise."""

    def written_out(
        self: Block, x: Tensor, condition: Tensor, real: Tensor | None, layout: Layout
    ) -> tuple[Tensor, Aux]:
        steer = self.modulation(torch.nn.functional.silu(condition))[:, None].chunk(6, -1)
        scale_a, shift_a, open_a, scale_f, shift_f, open_f = steer
        read = self.attention(self.norm_attention(x) * (1 + scale_a) + shift_a, real_BS=real)
        x = x + (1 + open_a) * self.dropout_attention(read)
        thought, aux = self.ffn(self.norm_ffn(x) * (1 + scale_f) + shift_f, real)
        return x + (1 + open_f) * self.dropout_ffn(thought), aux

    words = ("--ffn=moe4x2", "--dropout=0.2", f"--train.precision={precision}")
    slotted = trainer(*words)
    losses = [slotted.step()["train/loss"] for _ in range(3)]
    monkeypatch.setattr(Block, "forward", written_out)
    plain = trainer(*words)
    assert losses == [plain.step()["train/loss"] for _ in range(3)]
    ours, theirs = slotted.model.state_dict(), plain.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not [name for name in ours if "residual" in name]


@pytest.mark.parametrize("name", ["layerscale", "rezero"])
def test_the_spatial_system_takes_any(name: str) -> None:
    """The chosen scale is part of every block, starts at its default, and moves in training."""
    arm = trainer(f"--residual={name}")
    before = {n: p.detach().clone() for n, p in arm.model.named_parameters() if "residual" in n}
    assert len(before) == 4
    first = 0.01 if name == "layerscale" else 0.0
    assert all(torch.equal(p, torch.full_like(p, first)) for p in before.values())
    for _ in range(3):
        arm.step()
    assert all(not torch.equal(p, before[n]) for n, p in arm.model.named_parameters() if n in before)
