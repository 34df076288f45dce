"""Bound on the largest singular values of weights. O outputs, I inputs of a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from core.kinds.loss import LossFacts, WeightLoss
from core.params import knob, params
from plugins.losses._inputs import bounded, full_precision, unit_rows


@final
@params
class Spectral(WeightLoss):
    """Penalty on matrices that stretch by more than a bound: `sum_W max(0, sigma_1(W) - bound)^2`.

    sigma_1 is the largest singular value (Yoshida and Miyato 2017, arXiv:1705.10941, who penalise all of sigma_1^2).
    `loss(...)` computes it exactly; the module by power iteration, `steps` a call from where the last call ended, a
    lower bound that settles as the weights do. `project` scales matrices back to the bound instead of penalising
    them. Not to be confused with spectral normalisation (Miyato et al. 2018, arXiv:1802.05957), which makes sigma_1
    equal to 1 also where it is less.
    """

    bound: float = knob(1.0, "largest singular value that costs nothing", gt=0.0)
    steps: int = knob(1, "power steps a call, in training", ge=1)

    def __call__(self, weights: Sequence[Tensor]) -> dict[str, Tensor]:
        """`{"spectral": scalar}`, float32 or wider; 0 where no matrix exceeds the bound.

        Args:
            weights: one (O, I) or more.

        Raises:
            ValueError: no matrix, something else than a matrix, or one without entries.
        """
        _check([tuple(w.shape) for w in weights])
        with full_precision(weights[0]):
            return {"spectral": self.penalty([torch.linalg.svdvals(bounded(w))[0] for w in weights])}

    def penalty(self, sigmas: Sequence[Tensor]) -> Tensor:
        """The sum of squared excesses."""
        return torch.stack([(sigma - self.bound).clamp(min=0).square() for sigma in sigmas]).sum()

    @torch.no_grad()
    def project(self, weights: Sequence[Tensor]) -> None:
        """Scale each matrix in place by min(1, bound / sigma_1), sigma_1 exact: for use after an optimiser's step.

        Raises:
            ValueError: as for the penalty.
        """
        _check([tuple(w.shape) for w in weights])
        for w in weights:
            with full_precision(w):
                sigma = torch.linalg.svdvals(bounded(w))[0]
            w.mul_((self.bound / sigma).clamp(max=1.0).to(w.dtype))

    def build(self, facts: LossFacts) -> SpectralIteration:
        """A module for matrices of the shapes `facts.matrices`.

        Raises:
            ValueError: the shapes are not known.
        """
        _check(facts.matrices)
        return SpectralIteration(self, facts.matrices)


class SpectralIteration(nn.Module):
    """The module of `Spectral`: warm-started power iteration in training, and the pure loss in evaluation."""

    def __init__(self, loss: Spectral, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.loss, self.shapes = loss, [tuple(shape) for shape in shapes]
        for i, (outputs, _) in enumerate(self.shapes):
            # Spread evenly and without period, so that no matrix in use has it orthogonal to its first direction.
            start_O = (torch.arange(1, outputs + 1, dtype=torch.float64) * 0.6180339887498949).frac() - 0.5
            self.register_buffer(f"left_{i}", unit_rows(start_O).float())

    def forward(self, weights: Sequence[Tensor]) -> dict[str, Tensor]:
        """The terms of `Spectral`.

        Raises:
            ValueError: the weights are of other shapes than it was built for.
        """
        given = [tuple(w.shape) for w in weights]
        if given != self.shapes:
            raise ValueError(f"weights are {given}; this spectral penalty was built for {self.shapes}")
        if not self.training:
            return self.loss(weights)
        sigmas = []
        with full_precision(weights[0]):
            for i, weight in enumerate(weights):
                w_OI, left_O = bounded(weight), self.get_buffer(f"left_{i}")
                moved_O, right_I = _iterate(w_OI.detach(), left_O.to(w_OI.dtype), self.loss.steps)
                left_O.copy_(moved_O)
                sigmas.append(moved_O @ w_OI @ right_I)
        return {"spectral": self.loss.penalty(sigmas)}


@torch.no_grad()
def _iterate(w_OI: Tensor, left_O: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Singular directions after some power steps; where W sends a direction to zero, the last one is kept."""
    right_I = w_OI.new_zeros(w_OI.shape[1])
    for _ in range(steps):
        right_I = unit_rows(left_O @ w_OI)
        moved_O = unit_rows(w_OI @ right_I)
        left_O = torch.where(moved_O.any(), moved_O, left_O)
    return left_O, right_I


def _check(shapes: Sequence[tuple[int, ...]]) -> None:
    if not shapes or any(len(shape) != 2 or 0 in shape for shape in shapes):
        raise ValueError(f"weights are {list(shapes)}; spectral takes one matrix (outputs, inputs) or more")
