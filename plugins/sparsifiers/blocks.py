"""Sparsemax and entmax-1.5 on the CPU, a block of rows at a time, in place.

What bounds these maps is memory traffic, not arithmetic: a block stays in the cache over all its passes. Three things
make few passes: a start from the maxima of groups, steps on the norm (`newton.py`), and a stop once a block has arrived.
The numbers are those of `newton.powered` up to rounding. R rows, S sources, G groups.
"""

from __future__ import annotations

import torch
from torch import Tensor

from plugins.sparsifiers.newton import shifted

BLOCK = 1 << 17
"""numbers of a block: 512 KiB in float32, half of a common second-level cache"""
GROUP = 8
"""sources that a group maximum stands for"""
GROUP_STEPS = 4
LARGE = 1e4
"""greatest logit for which a threshold may be subtracted together with the row's maximum"""
STEPS = 48
"""enough where each step removes one source from the support only; a dozen is what random rows take at most"""


def weigh(logits: Tensor, visible: Tensor, power: int, keep_root: bool) -> tuple[Tensor, Tensor]:
    """The weights, shaped as `logits`, and d / ||d||, whose `power`-th power they are; that is empty if not kept.

    For power 1 both are the same, and none is kept. Arguments as in `newton.powered`; float32 or float64 on the CPU.
    """
    rows_RS = logits.reshape(-1, logits.shape[-1])
    root_RS = torch.empty_like(rows_RS)
    if not visible.all():
        bias = torch.zeros(visible.shape, dtype=logits.dtype).masked_fill_(~visible, -torch.inf)
        torch.add(logits, bias, out=root_RS.view(logits.shape))
        rows_RS = root_RS
    top_R1, rise_R1 = _start(rows_RS, power)
    if not bool((top_R1.abs() <= LARGE).all()):  # also where one is nan or infinite
        rows_RS = shifted(logits, visible).reshape(rows_RS.shape)
        top_R1, rise_R1 = _start(rows_RS, power)
        top_R1.clamp_(min=0.0)
    # Rounding may only lower the start: a step leads up, never back.
    base_R1 = top_R1 + rise_R1 - top_R1.abs() * (4 * torch.finfo(logits.dtype).eps)
    apart = power == 2 and keep_root
    weights_RS = torch.empty_like(root_RS) if apart else root_RS
    size = max(1, BLOCK // rows_RS.shape[-1])
    spare = root_RS.new_empty(min(size, len(rows_RS)), rows_RS.shape[-1]) if power == 1 else root_RS
    for start in range(0, len(rows_RS), size):
        block = slice(start, start + size)
        d = torch.sub(rows_RS[block], base_R1[block], out=root_RS[block]).relu_()
        d.div_(_settle(d, power, spare))
        if power == 2:
            torch.mul(d, d, out=weights_RS[block])
    return weights_RS.view(logits.shape), root_RS.view(logits.shape) if apart else root_RS.new_empty(0)


def pull(root: Tensor, grad: Tensor, power: int) -> Tensor:
    """The gradient of the logits from that of the weights: s * (g - sum(s g) / sum(s)), s = root^(2 - power's alpha).

    s is the root itself for power 2, and the support for power 1 (Peters et al. 2019, prop. 2).
    """
    root_RS, grad_RS = root.reshape(-1, root.shape[-1]), grad.reshape(-1, root.shape[-1])
    out_RS = torch.empty_like(root_RS)
    tiny = torch.finfo(root.dtype).tiny
    size = max(1, BLOCK // root.shape[-1])
    spare = torch.empty_like(root_RS[:size])
    for start in range(0, len(root_RS), size):
        s, out = root_RS[start : start + size], out_RS[start : start + size]
        if power == 1:
            s = torch.sign(s, out=spare[: len(s)])
        torch.mul(grad_RS[start : start + size], s, out=out)
        mean_R1 = out.sum(-1, keepdim=True).div_(s.sum(-1, keepdim=True).clamp_(min=tiny))
        out.addcmul_(s, mean_R1, value=-1)
    return out_RS.view(root.shape)


def _start(rows_RS: Tensor, power: int) -> tuple[Tensor, Tensor]:
    """The maximum of each row (0 where it is -inf), and a lower bound of the threshold above it, both (R, 1).

    The threshold of some of the sources is a lower bound of that of all. The maxima of groups hold most of the support
    and cost one pass that finds the row's maximum as well.
    """
    groups = rows_RS.shape[-1] // GROUP
    whole = groups * GROUP
    few_RG = rows_RS
    if groups > 1:
        few_RG = rows_RS[:, :whole].unflatten(-1, (GROUP, groups)).amax(1)
        if whole < rows_RS.shape[-1]:
            few_RG = torch.cat([few_RG, rows_RS[:, whole:]], dim=-1)
    top_R1 = few_RG.amax(-1, keepdim=True)
    top_R1.masked_fill_(top_R1 == -torch.inf, 0.0)
    d = (few_RG - top_R1).add_(power).relu_()
    rise_R1 = torch.full_like(top_R1, -power)
    spare = torch.empty_like(d)
    for _ in range(GROUP_STEPS if groups > 1 else 0):
        norm_R1, step_R1 = _norm_and_step(d, power, spare)
        rise_R1 += step_R1
        d.sub_(step_R1).relu_()
    return top_R1, rise_R1


def _settle(d: Tensor, power: int, spare: Tensor) -> Tensor:
    """Move `d` in place to the root of its rows, and return their norms there, never 0.

    An early stop leaves an error of the order of the last step for power 1, and of its square for power 2.
    """
    eps = torch.finfo(d.dtype).eps
    near = 2 * eps if power == 1 else eps**0.5 / 8
    for _ in range(STEPS):
        _, step_R1 = _norm_and_step(d, power, spare)
        last = float(step_R1.max())
        if power == 1 and last <= near:
            break
        d.sub_(step_R1).relu_()
        if last <= near:
            break
    norm_R1 = d.sum(-1, keepdim=True) if power == 1 else torch.linalg.vector_norm(d, dim=-1, keepdim=True)
    return norm_R1.clamp_(min=torch.finfo(d.dtype).tiny)


def _norm_and_step(d: Tensor, power: int, spare: Tensor) -> tuple[Tensor, Tensor]:
    tiny = torch.finfo(d.dtype).tiny
    total_R1 = d.sum(-1, keepdim=True)
    if power == 1:
        count_R1 = torch.sign(d, out=spare[: len(d)]).sum(-1, keepdim=True)
        return total_R1, (total_R1 - 1.0).div_(count_R1.clamp_(min=1.0)).clamp_(min=0.0)
    norm_R1 = torch.linalg.vector_norm(d, dim=-1, keepdim=True)
    return norm_R1, (norm_R1 - 2.0).mul_(norm_R1).div_(total_R1.clamp_(min=tiny)).clamp_(min=0.0)
