"""The threshold of alpha-entmax by Newton's method, in plain operations on whole tensors.

With z = logits - max, b = alpha - 1 and d = [1 + b (z - theta)]_+ the weights are p = d^(1/b), and theta >= 0 solves
sum p = 1 (Peters, Niculae and Martins 2019, arXiv:1905.05702, eq. 5 and 9, with tau = b theta - 1: theta = 0 is the
bound tau = max - 1). The l_{1/b} norm of d is convex and falls in theta, so Newton's method on norm - 1 rises from 0 to
the root and never passes it. It takes longer steps than Newton on sum p - 1, is exact at once where all logits are
equal, and turns into the logarithm of the softmax sum as alpha goes to 1, where sum p - 1 needs more and more steps.

Not to be confused with bisection (Blondel et al. 2019), which gains one bit a step, nor with sorting, which is exact
and several times slower. R... rows of any shape, S sources.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

STEPS = {1: 12, 2: 8}
"""Newton steps by power 1 / b: sparsemax ends exactly once the support is found, entmax-1.5 converges quadratically"""
CURVED_STEPS = 12
LEAST = 1e-8
"""b below this is computed as this: weights then differ from softmax by b z^2 p / 2, below the rounding of float32"""


def shifted(logits: Tensor, visible: Tensor) -> Tensor:
    """Logits minus the greatest visible one of their row, (R..., S) in [-inf, 0]; -inf where hidden.

    A visible -inf is as good as hidden. +inf is the greatest finite number, so that several share a row. A row that
    sees nothing is all -inf. NaN where visible stays NaN. The shift has no gradient: weights do not depend on it.
    """
    most = torch.finfo(logits.dtype).max
    bounded = logits.masked_fill(~visible, -torch.inf).clamp(max=most)
    if not bounded.shape[-1]:
        return bounded
    return bounded - bounded.detach().amax(-1, keepdim=True).clamp(min=-most)


def powered(logits: Tensor, visible: Tensor, power: int) -> Tensor:
    """Weights (R..., S) of alpha = 1 + 1 / power, for power 1 (sparsemax) or 2 (entmax-1.5)."""
    tiny = torch.finfo(logits.dtype).tiny
    d = (shifted(logits, visible) + power).clamp(min=0.0)  # power times the d above: no division of the logits by 2
    for _ in range(STEPS[power]):
        d = (d - _step(d, power, tiny)).clamp(min=0.0)
    return (d / _norm(d, power).clamp(min=tiny)) ** power


def _norm(d: Tensor, power: int) -> Tensor:
    return d.sum(-1, keepdim=True) if power == 1 else torch.linalg.vector_norm(d, dim=-1, keepdim=True)


def _step(d: Tensor, power: int, tiny: float) -> Tensor:
    norm = _norm(d, power)
    below = torch.sign(d).sum(-1, keepdim=True) if power == 1 else d.sum(-1, keepdim=True) / norm.clamp(min=tiny)
    return ((norm - power) / below.clamp(min=tiny)).clamp(min=0.0)


def curved(logits: Tensor, visible: Tensor, alpha: Tensor) -> Tensor:
    """Weights (R..., S) for any `alpha` in [1, 2] that broadcasts to the rows; at 1 they are softmax."""
    b = (alpha - 1.0).clamp(min=LEAST)
    z = shifted(logits, visible)
    tiny = torch.finfo(z.dtype).tiny
    theta = torch.zeros_like(z[..., :1])
    for _ in range(CURVED_STEPS):
        p, d = _weights(z, theta, b)
        total = p.sum(-1, keepdim=True).clamp(min=1.0)
        slope = torch.where(d > 0, p / d.clamp(min=tiny), 0.0).sum(-1, keepdim=True).clamp(min=tiny)
        theta = theta + total ** (1.0 - b) * torch.expm1(b * total.log()) / b / slope
    p, _ = _weights(z, theta, b)
    return p / p.sum(-1, keepdim=True).clamp(min=tiny)


def _weights(z: Tensor, theta: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """p and d. log1p keeps p accurate where b is small: d^(1/b) would raise the rounding of d to a great power."""
    lift = (b * (z - theta)).clamp(min=-1.0)
    return torch.exp(torch.log1p(lift) / b), 1.0 + lift


def alpha_slope(p: Tensor, share: Tensor, b: Tensor) -> Tensor:
    """dp / dalpha (R..., S), differentiable in `p`, `share` and `b` itself.

    At fixed theta, d log p / d b = -(log p)^2 psi(b log p) with psi(w) = (exp(-w) - 1 + w) / w^2; `share` = p^(1-b)
    over its sum takes away what the threshold gives back. Equal to Correia, Niculae and Martins 2019,
    arXiv:1909.00015, eq. 9, whose terms in 1 / b^2 cancel and lose all digits as b goes to 0.
    """
    floor = torch.finfo(p.dtype).eps ** 2
    seen = p > 0
    log_p = torch.where(seen, p.clamp(min=floor), 1.0).log()
    direct = -p * log_p.square() * _psi(b * log_p)
    return direct - share * direct.sum(-1, keepdim=True)


def _psi(w: Tensor) -> Tensor:
    near = w.abs() < 0.25
    small, large = torch.where(near, w, 0.0), torch.where(near, -1.0, w)
    series = torch.zeros_like(w)
    for order in range(12, 1, -1):  # sum over n >= 2 of (-w)^(n-2) / n!
        series = series * -small + 1.0 / math.factorial(order)
    return torch.where(near, series, (torch.expm1(-large) + large) / large.square())
