"""Denoising diffusion implicit sampling. Each modality (B, ...)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from core.kinds.path import FlowPath, Target
from core.kinds.solver import Field, Noise, Solver, Tree
from core.params import knob, params
from plugins.solvers._gaussian import Shares, Step, follow


@params
class Ddim(Solver):
    """Keeps the noise that the state holds, as the predicted data imply it, and renews a share of it.

    Song et al. 2021 (arXiv:2010.02502, equations 12 and 16), for any two times t < t' of any affine Gaussian path:

        x_t' = alpha(t') x1 + sqrt(sigma(t')^2 - s^2) (x_t - alpha(t) x1) / sigma(t) + s noise,   s = eta s_ddpm

    with s_ddpm the standard deviation of q(x_t' | x_t, x1). With eta = 0 nothing is drawn and the step is exact
    wherever the predicted data stay the same: it is Euler's method in coordinates in which the path is straight. With
    eta = 1 it is `ddpm`. The step to t' = 1 is the prediction itself, bit for bit.
    """

    wants: ClassVar[Target] = "data"

    eta: float = knob(0.0, "share of the ancestral sampler's noise that is drawn", ge=0.0, le=1.0)

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

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
            ValueError: no `noise` where a step draws some, a modality without a path, times that do not rise, or a path
                whose signal-to-noise ratio falls on the way to the data.
        """
        return follow(field, state, times, paths, noise, self._step, "ddim")

    def _step(self, at: Shares) -> Step:
        std = self.eta * at.spread
        c1 = math.sqrt(max(0.0, at.sigma_later**2 - std**2)) / at.sigma
        return Step(c1, at.alpha_later - c1 * at.alpha, std)
