"""Sparsemax and entmax-1.5 on the CPU, a block of rows at a time, in place.

What bounds these maps is memory traffic, not arithmetic, so a block stays in the cache over all its passes. Three
things keep the passes few: a start from the maxima of groups, steps on the norm (`newton.py`), and a stop once a block
has arrived. The numbers are those of `newton.powered` up to rounding. R rows, S sources, G groups.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plugins.sparsifiers.newton import shifted

BLOCK = 1 << 19
"""numbers of a block: 2 MiB in float32, as much as stays near; smaller ones pay more for the calls than they save"""
GROUP = 8
"""sources that a group maximum stands for"""
GROUP_STEPS = 3
LARGE = 1e9
"""greatest logit of the fast path, which subtracts maximum and threshold at once, to the rounding of the maximum"""
STEPS = 48
"""a bound only: blocks of random rows arrive after 2 to 6 steps"""


def weigh(logits: Tensor, visible: Tensor, power: int) -> Tensor:
    """The weights, shaped as `logits`, which are float32 or float64 on the CPU. Arguments as in `newton.powered`."""
    rows_RS = logits.reshape(-1, logits.shape[-1])
    weights_RS = torch.empty_like(rows_RS)
    if not visible.all():
        # Added, not filled in: torch selects by bool tensors at a quarter of the speed. nan and inf betray themselves.
        bias = torch.zeros(visible.shape, dtype=logits.dtype).masked_fill_(~visible, -torch.inf)
        torch.add(logits, bias, out=weights_RS.view(logits.shape))
        rows_RS = weights_RS
    if not _solve(rows_RS, weights_RS, power, LARGE):
        rows_RS = shifted(logits, visible).view(rows_RS.shape)
        _solve(rows_RS, weights_RS, power, torch.inf)
    return weights_RS.view(logits.shape)


def pull(weights: Tensor, grad: Tensor, power: int) -> Tensor:
    """The gradient of the logits from that of the weights: s * (g - sum(s g) / sum(s)) (Peters et al. 2019, prop. 2).

    s is the root of the weights for power 2, and their support for power 1.
    """
    weights_RS, grad_RS = weights.reshape(-1, weights.shape[-1]), grad.reshape(-1, weights.shape[-1])
    out_RS = torch.empty_like(weights_RS)
    tiny = torch.finfo(weights.dtype).tiny
    size = max(1, BLOCK // weights.shape[-1])
    spare = torch.empty_like(weights_RS[:size])
    for start in range(0, len(weights_RS), size):
        p, out = weights_RS[start : start + size], out_RS[start : start + size]
        s = spare[: len(p)]
        if power == 1:
            torch.sign(p, out=s)
        else:  # torch.sqrt takes five times as long where its argument is 0
            torch.add(p, tiny, out=s).rsqrt_().mul_(p)
        torch.mul(grad_RS[start : start + size], s, out=out)
        mean_R1 = out.sum(-1, keepdim=True).div_(s.sum(-1, keepdim=True).clamp_(min=tiny))
        out.addcmul_(s, mean_R1, value=-1)
    return out_RS.view(weights.shape)


def _solve(rows_RS: Tensor, weights_RS: Tensor, power: int, large: float) -> bool:
    """Fill in the weights, which may be the memory of the rows; False, with rows intact, at a logit beyond `large`."""
    size = max(1, BLOCK // rows_RS.shape[-1])
    top_R1, base_R1 = _start(rows_RS, power)
    if large < torch.inf and not float(top_R1.abs_().max()) <= large:
        return False
    spare = torch.empty_like(rows_RS[: size if power == 1 else 0])
    for start in range(0, len(rows_RS), size):
        block = slice(start, start + size)
        d = torch.sub(rows_RS[block], base_R1[block], out=weights_RS[block]).relu_()
        d.div_(_settle(d, power, spare))
        if power == 2:
            torch.mul(d, d, out=d)
    return True


def _start(rows_RS: Tensor, power: int) -> tuple[Tensor, Tensor]:
    """The maximum of each row (0 where it is -inf), and a lower bound of what is subtracted at the root, both (R, 1).

    The threshold of some of the sources is a lower bound of that of all. The maxima of groups hold most of the support
    and cost one pass that finds the row's maximum as well.
    """
    width = rows_RS.shape[-1] // GROUP
    few_RG = rows_RS
    if width > 1:
        few_RG = rows_RS[:, : width * GROUP].unflatten(-1, (GROUP, width)).amax(1)
        if width * GROUP < rows_RS.shape[-1]:
            few_RG = torch.cat([few_RG, rows_RS[:, width * GROUP :]], dim=-1)
    top_R1 = few_RG.amax(-1, keepdim=True)
    top_R1.masked_fill_(top_R1 == -torch.inf, 0.0)
    # Rounding may only lower the start: a step leads up, never back.
    base_R1 = (top_R1 - power).sub_(top_R1.abs(), alpha=4 * torch.finfo(rows_RS.dtype).eps)
    if width > 1:
        d = (few_RG - base_R1).relu_()
        spare = torch.empty_like(d)
        for _ in range(GROUP_STEPS):
            step_R1 = _step(d, power, spare)
            base_R1 += step_R1
            d.sub_(step_R1).relu_()
        base_R1.sub_(top_R1.abs(), alpha=4 * torch.finfo(rows_RS.dtype).eps)
    return top_R1, base_R1


def _settle(d: Tensor, power: int, spare: Tensor) -> Tensor:
    """Move `d` in place to the root of its rows, and return their norms there, never 0.

    An early stop leaves an error of the order of the last step for power 1, and of its square for power 2.
    """
    eps = torch.finfo(d.dtype).eps
    near = 2 * eps if power == 1 else eps**0.5
    for _ in range(STEPS):
        step_R1 = _step(d, power, spare)
        last = float(step_R1.max())
        if power == 1 and last <= near:
            break
        d.sub_(step_R1).relu_()
        if last <= near:
            break
    norm_R1 = d.sum(-1, keepdim=True) if power == 1 else torch.linalg.vector_norm(d, dim=-1, keepdim=True)
    return norm_R1.clamp_(min=torch.finfo(d.dtype).tiny)


def _step(d: Tensor, power: int, spare: Tensor) -> Tensor:
    total_R1 = d.sum(-1, keepdim=True)
    if power == 1:
        count_R1 = torch.sign(d, out=spare[: len(d)]).sum(-1, keepdim=True)
        return total_R1.sub_(1.0).div_(count_R1.clamp_(min=1.0)).clamp_(min=0.0)
    norm_R1 = torch.linalg.vector_norm(d, dim=-1, keepdim=True)
    total_R1.clamp_(min=torch.finfo(d.dtype).tiny)
    return (norm_R1 - 2.0).mul_(norm_R1).div_(total_R1).clamp_(min=0.0)
