"""Kernel: how the attention sum is computed.

B batch, H heads, Q query and S source tokens, K key width, V value width.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar

import attrs

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    from torch import Tensor, nn

    from core.kinds.mask import Form, Mask


@attrs.frozen(kw_only=True)
class Request:
    """All that a kernel may look at before it says yes or no."""

    fused: bool
    """the sparsifier may be computed without its logits"""
    form: Form
    """the mask's form"""
    padded: bool
    """some sources may be padding"""
    bias: bool
    """a bias is added to the logits"""
    device: str = "cpu"


class Kernel(Plugin):
    """One way to compute `sparsify(q k^T / sqrt(K) + bias, visible) v`.

    Laws (`core.testing.kernel.KernelLaws`): wherever `refuses` returns None, values and gradients equal the plain
    reference in float64; a row that sees nothing is zero; hidden sources leak neither value nor gradient; `pairs` is
    what a count of its FLOPs gives.
    """

    KIND: ClassVar[str] = "kernel"
    priority: ClassVar[int]
    """lower is asked first"""

    @abstractmethod
    def refuses(self, request: Request) -> str | None:
        """None when it can serve the request, else the reason in one sentence."""

    def plan(self, request: Request) -> tuple[Kernel, list[str]]:
        """The kernel that will serve a request, and what each one asked before it said.

        Raises:
            ValueError: none will, with the reasons.
        """
        reason = self.refuses(request)
        if reason is not None:
            raise ValueError(reason)
        return self, []

    def pairs(self, request: Request, mask: Mask, queries: int, sources: int) -> int:
        """The pairs of one set whose logits and values it multiplies, hidden ones too where it forms their products.

        Args:
            request: one that it does not refuse.
            mask: what `Mask.on` returned.
            queries: of the call.
            sources: of the call, anchors included.

        Raises:
            ValueError: it, or every kernel that it may choose, refuses the request.
        """
        return queries * sources

    @abstractmethod
    def attend(
        self,
        q_BHQK: Tensor,
        k_BHSK: Tensor,
        v_BHSV: Tensor,
        mask: Mask,
        sparsifier: nn.Module,
        *,
        real_BS: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """The weighted sum, (B, H, Q, V). The mask is what `Mask.on` returned: it knows its tokens."""
