"""The fastest kernel that can serve a request.

B batch, H heads, Q query and S source tokens, K key width, V value width.
"""

from __future__ import annotations

import functools
from typing import ClassVar

from torch import Tensor, nn

from core.errors import UserError
from core.kinds.kernel import Kernel, Request
from core.kinds.mask import Mask
from core.params import params


@params
class Auto(Kernel):
    """Asks every installed kernel in order of priority and takes the first that does not refuse."""

    priority: ClassVar[int] = 0

    def plan(self, request: Request) -> tuple[Kernel, list[str]]:
        """The kernel for a request, and what each kernel asked before it said, a line each.

        Raises:
            ValueError: every installed kernel refuses; all reasons are given.
        """
        kernel, refusals = _choose(request)
        if kernel is None:
            raise ValueError(f"no installed kernel serves {request}: {'; '.join(refusals) or 'none is installed'}")
        return kernel, list(refusals)

    def refuses(self, request: Request) -> str | None:
        kernel, refusals = _choose(request)
        return None if kernel is not None else "; ".join(refusals) or "no kernel is installed"

    def pairs(self, request: Request, mask: Mask, queries: int, sources: int) -> int:
        return self.plan(request)[0].pairs(request, mask, queries, sources)

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
        """As `Kernel.attend`; only a sparsifier module that says `fused = True` may go to a fused kernel."""
        request = Request(
            fused=getattr(sparsifier, "fused", False),
            form=mask.form,
            padded=real_BS is not None,
            bias=bias is not None,
            device=q_BHQK.device.type,
        )
        kernel, _ = self.plan(request)
        return kernel.attend(q_BHQK, k_BHSK, v_BHSV, mask, sparsifier, real_BS=real_BS, bias=bias)


@functools.cache
def candidates() -> tuple[tuple[Kernel, ...], tuple[str, ...]]:
    """Every installed kernel but `Auto` in order of priority, and why others could not be loaded.

    One that does not load is passed over, so that a third party's broken package stops nobody.
    """
    from core.registry import installed

    kernels, broken = [], []
    for row in installed().rows("kernel"):
        try:
            cls = row.load()
        except UserError as error:
            broken.append(str(error))
            continue
        if cls is not Auto:
            kernels.append(cls(**row.preset))
    return tuple(sorted(kernels, key=lambda kernel: kernel.priority)), tuple(broken)


@functools.cache
def _choose(request: Request) -> tuple[Kernel | None, tuple[str, ...]]:
    kernels, broken = candidates()
    refusals = list(broken)
    for kernel in kernels:
        reason = kernel.refuses(request)
        if reason is None:
            return kernel, tuple(refusals)
        refusals.append(reason)
    return None, tuple(refusals)
