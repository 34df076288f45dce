"""Gate: scales what attention read, before the output projection.

B batch, Q tokens, D width, H heads, V value width of a head.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

from core.kinds.plugin import Plugin
from core.kinds.size import counted_flops, counted_params

if TYPE_CHECKING:
    from torch import Tensor, nn


class Gate(Plugin):
    """An epilogue of the weighted sum, outside the kernel, so that it never blocks a fast one.

    Any gate fuses two branches too: `core.nn.fusion.Fusion` presents them as two heads. What a gate wants of the
    training loss, such as a penalty on its weights, it tells by `core.nn.auxiliary`.

    Laws (`core.testing.gate.GateLaws`): shape and dtype are kept; scores lie in [0, 1], also for tokens of 1e30; scores
    of 1 leave the input as it is; each token's gate depends on that token alone; the gradient reaches the gate's own
    parameters; a saved state gives the same gate again; `params` and `flops` are what a count gives.
    """

    KIND: ClassVar[str] = "gate"

    @abstractmethod
    def build(self, width: int, heads: int, head_width: int) -> nn.Module:
        """A module with the two methods of `GateLayer`.

        Args:
            width: D of the tokens that the gate reads.
            heads: H of what it scales.
            head_width: V of what it scales.

        Raises:
            ValueError: the gate cannot scale that many heads.
        """

    def params(self, width: int, heads: int, head_width: int) -> int:
        """How many parameters the module has that `build` makes; a built-in piece says so in closed form."""
        return counted_params(lambda: self.build(width, heads, head_width))

    def flops(self, width: int, heads: int, head_width: int, tokens: int) -> int:
        """FLOPs of the matrix products of gating so many tokens of a set; a multiply-add counts twice."""
        import torch

        def run() -> object:
            module = self.build(width, heads, head_width).eval()
            return module(torch.empty(1, heads, tokens, head_width), torch.empty(1, tokens, width))

        return counted_flops(run)


class GateLayer:
    """Marker base of gate modules, so that a probe finds them; mix it into an `nn.Module` first in the bases."""

    def scores(self, x_BQD: Tensor) -> Tensor | None:
        """The multipliers in [0, 1], (B, Q, H) or (B, Q, H, V); None for a gate that has none."""
        raise NotImplementedError

    def forward(self, out_BHQV: Tensor, x_BQD: Tensor) -> Tensor:
        """`out_BHQV` scaled by the scores of the tokens `x_BQD` that the queries were made from."""
        raise NotImplementedError
