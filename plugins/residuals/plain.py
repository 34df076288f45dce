"""The plain residual. B batch, T tokens, D width."""

from __future__ import annotations

from torch import Tensor, nn

from core.kinds.residual import Residual
from core.nn.overflow import saturated
from core.params import params


@params
class Plain(Residual):
    """x + f(x) (He et al. 2016, arXiv:1512.03385, eq. 1)."""

    def build(self, width: int) -> Addition:
        return Addition()


class Addition(nn.Module):
    """The module of `Plain`; it has no parameters."""

    def forward(self, x_BTD: Tensor, out_BTD: Tensor) -> Tensor:
        """The sum, (B, T, D), of the wider dtype of the two."""
        return saturated(x_BTD + out_BTD)
