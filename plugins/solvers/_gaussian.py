"""Steps between two times of an affine Gaussian path, from predicted data. Each modality (B, ...)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import attrs
import torch
from torch import Tensor

from core.kinds.path import FlowPath
from core.kinds.solver import Field, Noise, Tree
from plugins.solvers.euler import steps


@attrs.frozen
class Shares:
    """A path at both ends of a step, t < t'."""

    alpha: float
    alpha_later: float
    sigma: float
    sigma_later: float
    left: float
    """1 - q, where q = (alpha(t) / alpha(t'))^2 (sigma(t') / sigma(t))^2 is the ratio of the signal-to-noise ratios"""

    @property
    def spread(self) -> float:
        """The standard deviation of q(x_t' | x_t, x1)."""
        return self.sigma_later * math.sqrt(self.left)


@attrs.frozen
class Step:
    """One interval of one modality: c1 x_t + c2 data + std noise."""

    c1: float
    c2: float
    std: float

    def mean(self, x: Tensor, data: Tensor) -> Tensor:
        """Without its noise."""
        return self.c1 * x + self.c2 * data if self.c1 > 0 else self.c2 * data


def follow(
    field: Field,
    state: Tree,
    times: list[float],
    paths: Mapping[str, FlowPath],
    noise: Noise | None,
    step: Callable[[Shares], Step],
    solver: str,
) -> Tree:
    """The state at times[-1], one field call a step, by what `step` makes of each interval.

    Raises:
        ValueError: no `noise` where a step draws some, a modality without a path, times that do not rise, or a path
            whose signal-to-noise ratio falls on the way to the data.
    """
    missing = sorted(state.keys() - paths.keys())
    if missing:
        raise ValueError(f"{solver} needs the path of every modality; none was given for {', '.join(missing)}")
    # The whole schedule is worked out before the first field call, so that a bad one costs nothing.
    plan = [(t, {name: step(_shares(paths[name], t, later)) for name in state}) for t, later in steps(times)]
    if noise is None and any(one.std > 0 for _, by_name in plan for one in by_name.values()):
        raise ValueError(f"{solver} draws noise at its steps: pass `noise`, or choose a deterministic solver (euler)")
    for t, by_name in plan:
        data = field(state, t)
        mean = {name: by_name[name].mean(x, data[name]) for name, x in state.items()}
        if noise is not None and any(one.std > 0 for one in by_name.values()):
            fresh = noise(state)
            mean = {name: x + by_name[name].std * fresh[name] for name, x in mean.items()}
        state = mean
    return state


def _shares(path: FlowPath, t: float, later: float) -> Shares:
    both = torch.tensor([t, later], dtype=torch.float64)
    (alpha, alpha_later), (sigma, sigma_later) = path.alpha(both).tolist(), path.sigma(both).tolist()
    q = (alpha / alpha_later * (sigma_later / sigma)) ** 2
    # q <= 1 as alpha rises and sigma falls; beyond what rounding can do, the path breaks its law.
    if not q <= 1 + 1e-9:
        raise ValueError(
            f"{type(path).__name__} loses signal between t = {t} and t = {later} (signal-to-noise ratio falls by "
            f"{q:.6g}): a sampler needs alpha to rise and sigma to fall"
        )
    return Shares(alpha, alpha_later, sigma, sigma_later, max(0.0, 1.0 - q))
