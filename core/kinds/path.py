"""FlowPath: how data turn into noise, and back.

Time runs from t = 0 (noise, the source x0) to t = 1 (data, the target x1), in every path: a diffusion schedule is a
path read backwards. Shapes: x (B, ...), t (B,).
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

import attrs

from core.kinds.plugin import Plugin

if TYPE_CHECKING:
    from torch import Tensor

Target = Literal["velocity", "noise", "data"]


@attrs.frozen
class PathPoint:
    """A point of the path between x0 and x1."""

    x_t: Tensor
    velocity: Tensor
    """d x_t / dt with both ends held"""


class FlowPath(Plugin):
    """An affine Gaussian path `x_t = alpha(t) x1 + sigma(t) x0`, one a modality, each modality at its own time.

    Pure mathematics: no weights, no randomness. Lipman et al. 2023 (flow matching), Kingma et al. 2021 (variational
    diffusion) share this form.

    Laws (`core.testing.path.PathLaws`): point(0) = x0 and point(1) = x1; `shares` are alpha and sigma; alpha rises and
    sigma falls strictly; `velocity` is the finite difference of `x_t`; `convert` there and back is the identity.
    """

    KIND: ClassVar[str] = "path"

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Share of the data at time t, 0 at t = 0 and 1 at t = 1."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """Share of the noise at time t, 1 at t = 0 and 0 at t = 1."""

    @abstractmethod
    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """d alpha / dt and d sigma / dt."""

    def shares(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """`alpha` and `sigma` at once, for paths where they have work in common."""
        return self.alpha(t), self.sigma(t)

    def point(self, x0: Tensor, x1: Tensor, t_B: Tensor) -> PathPoint:
        """Where the path between x0 and x1 stands at time t, and how fast it moves.

        Raises:
            ValueError: times that are not one an item, or ends of different shapes.
        """
        if x0.shape != x1.shape:
            raise ValueError(f"a path joins two ends of one shape, got {tuple(x0.shape)} and {tuple(x1.shape)}")
        alpha, sigma = (_over(s, x1) for s in self.shares(t_B))
        d_alpha, d_sigma = (_over(s, x1) for s in self.rates(t_B))
        return PathPoint(alpha * x1 + sigma * x0, d_alpha * x1 + d_sigma * x0)

    def convert(self, x_t: Tensor, t_B: Tensor, value: Tensor, frm: Target, to: Target) -> Tensor:
        """One prediction in the terms of another: `velocity`, `noise` (x0) or `data` (x1).

        Between data and noise the division is by alpha or sigma: at t = 0 noise says nothing of the data, at t = 1
        the data say nothing of the noise, and the result is not finite there. From a velocity the same holds wherever
        the path stands still, as the cosine path does at t = 0.

        Raises:
            ValueError: times that are not one an item.
        """
        if frm == to:
            return value
        alpha, sigma = (_over(s, x_t) for s in self.shares(t_B))
        d_alpha, d_sigma = (_over(s, x_t) for s in self.rates(t_B))
        if frm == "velocity":
            det = d_alpha * sigma - d_sigma * alpha
            data = (value * sigma - d_sigma * x_t) / det
            noise = (d_alpha * x_t - value * alpha) / det
        elif frm == "noise":
            data, noise = (x_t - sigma * value) / alpha, value
        else:
            data, noise = value, (x_t - alpha * value) / sigma
        return {"data": data, "noise": noise}[to] if to != "velocity" else d_alpha * data + d_sigma * noise


def _over(scalar_B: Tensor, x: Tensor) -> Tensor:
    # A time of another shape would be broadcast over items in silence.
    if scalar_B.shape != x.shape[:1]:
        raise ValueError(f"a path takes one time an item, ({x.shape[0]},), got times {tuple(scalar_B.shape)}")
    return scalar_B.reshape(scalar_B.shape + (1,) * (x.dim() - scalar_B.dim()))
