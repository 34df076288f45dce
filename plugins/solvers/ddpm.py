"""Ancestral sampling in continuous time. Each modality (B, ...)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from core.kinds.path import FlowPath, Target
from core.kinds.solver import Field, Noise, Solver, Tree
from core.params import params
from plugins.solvers._gaussian import Shares, Step, follow


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

    Not to be confused with DDIM (Song et al. 2021), which keeps the noise it has and draws none: `ddim`, of which this
    one is the case eta = 1.
    """

    wants: ClassVar[Target] = "data"

    @property
    def stochastic(self) -> bool:
        return True

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
        return follow(field, state, times, paths, noise, _step, "ddpm")


def _step(at: Shares) -> Step:
    ratio, shrink = at.alpha / at.alpha_later, at.sigma_later / at.sigma
    return Step(ratio * shrink**2, at.alpha_later * at.left, at.spread)
