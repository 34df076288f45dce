"""The cosine diffusion schedule as a path in continuous time.

t (B,). tau = 1 - t is the time of the diffusion literature, where noise grows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import attrs
import torch

from core.kinds.path import FlowPath
from core.params import knob, params

if TYPE_CHECKING:
    from torch import Tensor


@params
class Cosine(FlowPath):
    """Cosine schedule, closed form: alpha = f(tau) / f(0), f(tau) = cos^2(pi/2 (tau^exponent + offset) / (1 + offset)).

    Here alpha itself is the squared cosine and sigma = sqrt(1 - alpha^2), so alpha^2 + sigma^2 = 1; each modality may
    have its own exponent, and a larger one destroys that modality later. Both are the choices of MiDi (Vignac et al.
    2023, arXiv:2302.09048). Not to be confused with the schedule that f is taken from, Nichol & Dhariwal 2021
    (arXiv:2102.09672, equation 17): there the *square* of the data's share is f, so their share at a given tau is the
    square root of this one.

    There is no table and no clipping of steps: noise is exactly absent at t = 1 and data exactly absent at t = 0, in
    any dtype, so a sampler that knows the data returns them.
    """

    exponent: float = knob(1.0, "power of the diffusion time; above 1 the modality is noised later", gt=0)
    offset: float = knob(
        0.008, "keeps the first noise from being too small", ge=1e-6, le=1, source="Nichol & Dhariwal 2021, section 3.2"
    )

    def alpha(self, t: Tensor) -> Tensor:
        return self.shares(t)[0]

    def sigma(self, t: Tensor) -> Tensor:
        return self.shares(t)[1]

    def shares(self, t: Tensor) -> tuple[Tensor, Tensor]:
        parts = self._parts(t)
        alpha = parts.cos_ratio.square()
        return alpha, (parts.rise * parts.fall * (1.0 + alpha)).sqrt()

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """d alpha / dt and d sigma / dt, finite for every t in [0, 1].

        At t = 1 the slope of sigma is -inf where exponent < 2, as sigma falls like (1 - t)^(exponent / 2), and so is
        that of alpha +inf where exponent < 1. There the slope at the last number of the dtype below 1 is returned:
        an infinite one would turn the velocity of an item whose noise is 0 (padding) into NaN. For exponent >= 2 the
        value at t = 1 is exact. Don't differentiate this class through t: the closed forms are here for that.
        """
        parts = self._parts(t)
        k, s, e = self._k, self.offset, self.exponent
        # cos^2 and 1 - cos^2 both have this derivative up to sign; sin(k (v + s)) is the sine beside the cosine.
        slope = 2.0 * k * e * parts.cos_ratio * torch.sin(k * (parts.v + s)) / parts.top
        d_alpha = slope * _power(parts.tau, e - 1.0)
        # sigma = tau^(e/2) g with g > 0 at t = 1 too, so sigma' = -alpha alpha' / sigma never becomes 0 / 0.
        g = (k * torch.sinc(k / math.pi * parts.v) / parts.top * parts.fall * (1.0 + parts.cos_ratio.square())).sqrt()
        d_sigma = -parts.cos_ratio.square() * slope / g * _power(parts.tau, e / 2.0 - 1.0)
        return d_alpha, d_sigma

    @property
    def _k(self) -> float:
        return 0.5 * math.pi / (1.0 + self.offset)

    def _parts(self, t: Tensor) -> _Parts:
        """The factors of f and of 1 - f, each free of cancellation.

        With v = tau^exponent, w = 1 - v, k = pi/2 / (1 + offset): cos(k (v + offset)) = sin(k w), f(0) = sin^2(k) and
        1 - alpha = sin(k v) sin(k (2 - v)) / sin^2(k) by sin^2 A - sin^2 B = sin(A - B) sin(A + B).
        """
        k, tau = self._k, 1.0 - t
        v = tau.pow(self.exponent)
        w = -torch.expm1(self.exponent * torch.log1p(-t))
        top = torch.sin(torch.full_like(t, k))
        # k (2 - v) and k (v + 2 offset) are supplements: one sine, and the smaller angle keeps its digits.
        angle = k * torch.minimum(2.0 - v, v + 2.0 * self.offset)
        return _Parts(tau, v, top, torch.sin(k * w) / top, torch.sin(k * v) / top, torch.sin(angle) / top)


@attrs.frozen
class _Parts:
    tau: Tensor
    v: Tensor
    top: Tensor
    """sin(k), of t's shape so that the quotients are exactly 1 where they should be"""
    cos_ratio: Tensor
    rise: Tensor
    fall: Tensor


def _power(tau: Tensor, exponent: float) -> Tensor:
    """tau^exponent; a negative power of 0 is taken at half the spacing of numbers at 1, the last step before it."""
    if exponent < 0:
        tau = tau.clamp(min=0.5 * torch.finfo(tau.dtype).eps)
    return tau.pow(exponent)
