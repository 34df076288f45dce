"""Ancestral sampling in continuous time. Each modality (B, ...)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

import attrs
import torch

from core.kinds.path import FlowPath, Target
from core.kinds.solver import Field, Noise, Solver, Tree
from core.params import params
from plugins.solvers.euler import steps


@params
class Ddpm(Solver):
    """Ancestral sampler from predicted data: each step draws from q(x_t' | x_t, x1 = prediction).

    Ho et al. 2020 (arXiv:2006.11239, equations 6-7), written for any two times of any affine Gaussian path as in
    Kingma et al. 2021 (arXiv:2107.00630, appendix A). From t to t' > t, towards the data, with a = alpha(t) /
    alpha(t') and q = a^2 sigma(t')^2 / sigma(t)^2, the ratio of the two signal-to-noise ratios:

        x_t' = (q / a) x_t + alpha(t') (1 - q) x1 + sigma(t') sqrt(1 - q) noise

    Each modality follows its own path. Whenever x_t has the path's distribution given x1, so has x_t'. The step to
    t' = 1 is the prediction itself, bit for bit, and draws no noise: nothing of the noise is left in a sample. From
    t = 0, where x_t holds no data, the step forgets x_t.

    A step's variance is that of one known x1, so with few steps samples spread too little: with a perfect predictor,
    data of unit variance and a cosine path, by 6 % at 50 even steps and by 1.6 % at 200.

    Not to be confused with DDIM (Song et al. 2021), which keeps the noise it has and draws none.
    """

    wants: ClassVar[Target] = "data"
    stochastic: ClassVar[bool] = True

    def calls(self, steps: int) -> int:
        return steps

    def solve(
        self,
        field: Field,
        state: Tree,
        times: list[float],
        *,
        paths: Mapping[str, FlowPath],
        noise: Noise | None = None,
    ) -> Tree:
        """The state at times[-1].

        Raises:
            ValueError: no `noise`, a modality without a path, times that do not rise, or a path whose signal-to-noise
                ratio falls on the way to the data.
        """
        if noise is None:
            raise ValueError("ddpm draws noise at every step: pass `noise`, or choose a deterministic solver (euler)")
        missing = sorted(state.keys() - paths.keys())
        if missing:
            raise ValueError(f"ddpm needs the path of every modality; none was given for {', '.join(missing)}")
        # The whole schedule is worked out before the first field call, so that a bad one costs nothing.
        plan = [(t, {name: _step(paths[name], t, later) for name in state}) for t, later in steps(times)]
        for t, by_name in plan:
            data = field(state, t)
            mean = {name: by_name[name].mean(x, data[name]) for name, x in state.items()}
            if any(step.std > 0 for step in by_name.values()):
                fresh = noise(state)
                mean = {name: x + by_name[name].std * fresh[name] for name, x in mean.items()}
            state = mean
        return state


@attrs.frozen
class _Step:
    """One interval of one modality: c1 x_t + c2 data + std noise."""

    c1: float
    c2: float
    std: float

    def mean(self, x: torch.Tensor, data: torch.Tensor) -> torch.Tensor:
        return self.c1 * x + self.c2 * data if self.c1 > 0 else self.c2 * data


def _step(path: FlowPath, t: float, later: float) -> _Step:
    both = torch.tensor([t, later], dtype=torch.float64)
    (alpha, alpha_later), (sigma, sigma_later) = path.alpha(both).tolist(), path.sigma(both).tolist()
    ratio, shrink = alpha / alpha_later, sigma_later / sigma
    q = (ratio * shrink) ** 2
    # q <= 1 as alpha rises and sigma falls; beyond what rounding can do, the path breaks its law.
    if not q <= 1 + 1e-9:
        raise ValueError(
            f"{type(path).__name__} loses signal between t = {t} and t = {later} (signal-to-noise ratio falls by "
            f"{q:.6g}): ancestral sampling needs alpha to rise and sigma to fall"
        )
    left = max(0.0, 1.0 - q)
    return _Step(ratio * shrink**2, alpha_later * left, sigma_later * math.sqrt(left))
