"""What the tissue simulator knows: the best prediction of either modality from the other.

n cells, G genes, L latent axes, P axes of space, T cell types, K places of a lattice, D draws, M tabulated shares,
k chosen rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import attrs
import numpy as np

from plugins.data.anatomy import Anatomy, Section, generator, profile
from plugins.data.prepare import Preparation
from plugins.data.sets import Truth

STATES = 8192
"""places of the lattice times types, that a position's posterior is summed over"""
STEP = 0.15
"""width of a bin of log library size within which cells share one value"""
DRAWS = 4096
SHARE_M = np.geomspace(1e-6, 1.0, 192)
"""shares of a cell's counts at which the mean of the transform is tabulated"""


@final
@attrs.frozen(kw_only=True, eq=False)
class TissueTruth(Truth):
    """The simulator's own knowledge, with each section's warp and shift: a ceiling, which no model can know so well."""

    anatomy: Anatomy
    cuts: Sequence[Section]
    q_nL: np.ndarray
    section_n: np.ndarray
    counts_nG: np.ndarray
    depth: float
    spread: float
    dispersion: float
    dropout: float
    seed: int

    def expression(self, index_k: np.ndarray, fitted: Preparation) -> np.ndarray:
        """E[transformed expression | place, section], the mean over the types that live at the place.

        Two shortcuts: the mean of the transform is tabulated against a gene's share by seeded Monte Carlo
        (4,096 cells a share, standard error 1.6 % of one cell's deviation), and a cell's total, which the transform may
        divide by, is taken at its expectation given the library size, not as the sum that holds the gene itself.
        """
        out_kG = np.empty((len(index_k), len(self.anatomy.base_G)))
        for number in np.unique(self.section_n[index_k]):
            here = self.section_n[index_k] == number
            cut, q_kL = self.cuts[number], self.q_nL[index_k[here]]
            landscape_kG, share_kT = self.anatomy.landscape(q_kL, cut), self.anatomy.types(q_kL)
            mean_M, told_kG = self._mean(cut, fitted), np.zeros_like(landscape_kG)
            for share_k, marker_G in zip(share_kT.T, self.anatomy.marker_TG, strict=True):
                log_kG = np.log(profile(landscape_kG, marker_G))
                told_kG += share_k[:, None] * np.interp(log_kG, np.log(SHARE_M), mean_M)
            out_kG[here] = told_kG
        return out_kG

    def position(self, index_k: np.ndarray) -> np.ndarray:
        """E[position | counts, section], summed over a lattice of places and over all types at each.

        One shortcut: the library size is taken at its estimate, total / (1 - dropout), rounded to a bin of log size.
        Profiles sum to 1, so the total says next to nothing of place or type, and hundreds of counts fix it well.
        """
        out_kP = np.empty((len(index_k), self.q_nL.shape[1]))
        for number in np.unique(self.section_n[index_k]):
            here = np.flatnonzero(self.section_n[index_k] == number)
            out_kP[here] = self._place(self.counts_nG[index_k[here]], self.cuts[number])
        return out_kP

    def _mean(self, cut: Section, fitted: Preparation) -> np.ndarray:
        """Mean of the transform (M,) for genes that hold the shares `SHARE_M` of a cell's counts."""
        rng = generator("oracle", self.seed)
        library_D = self.depth * cut.depth * np.exp(rng.normal(-(self.spread**2) / 2, self.spread, DRAWS))
        mean_DM = library_D[:, None] * SHARE_M
        counts_DM = rng.poisson(rng.gamma(self.dispersion, mean_DM / self.dispersion)).astype(np.float32)
        seen_DM = fitted.transformed(counts_DM, library_D * (1 - self.dropout))
        # A lost count adds nothing: every transform of 0 is 0.
        return (1 - self.dropout) * seen_DM.mean(axis=0, dtype=np.float64)

    def _place(self, counts_nG: np.ndarray, cut: Section) -> np.ndarray:
        anatomy = self.anatomy
        dims, types = self.q_nL.shape[1], len(anatomy.marker_TG)
        steps = max(6, round((STATES / types) ** (1 / dims)))
        middle = (np.arange(steps) + 0.5) / steps
        q_KL = np.stack(np.meshgrid(*[middle] * dims, indexing="ij"), -1).reshape(-1, dims)
        landscape_KG = anatomy.landscape(q_KL, cut)
        shares = [profile(landscape_KG, marker_G).astype(np.float32) for marker_G in anatomy.marker_TG]
        prior_TK = np.log(np.maximum(anatomy.density(q_KL)[:, None] * anatomy.types(q_KL), 1e-30)).T.astype(np.float32)
        place_KP = anatomy.place(q_KL, cut)
        library_n = np.maximum(counts_nG.sum(axis=1), 1) / (1 - self.dropout)
        bin_n = np.rint(np.log(library_n) / STEP).astype(int)
        out_nP = np.empty((len(counts_nG), dims))
        for number in np.unique(bin_n):
            here = bin_n == number
            library = np.float32(np.exp(number * STEP))
            fits = [self._likelihood(counts_nG[here], library * share_KG) for share_KG in shares]
            fit_TnK = np.stack(fits) + prior_TK[:, None]
            weight_nK = np.exp(fit_TnK - fit_TnK.max(axis=(0, 2))[:, None]).sum(axis=0)
            out_nP[here] = weight_nK @ place_KP / weight_nK.sum(axis=1, keepdims=True)
        return out_nP

    def _likelihood(self, counts_nG: np.ndarray, mean_KG: np.ndarray) -> np.ndarray:
        """Log likelihood (n, K) of zero-inflated negative-binomial counts, up to a term of the counts alone.

        log NB(x; m, r) = x log(m / (m + r)) - r log(1 + m / r) + c(x); a count of 0 is also a lost one. Linear in x and
        in [x > 0], so that two matrix products give all pairs of cell and place.
        """
        ratio_KG = np.log1p(mean_KG / self.dispersion)
        odds_KG = np.log(mean_KG / self.dispersion) - ratio_KG
        zero_KG = -self.dispersion * ratio_KG
        lost_KG = np.log(self.dropout + (1 - self.dropout) * np.exp(zero_KG))
        kept_KG = np.log1p(-self.dropout) + zero_KG - lost_KG
        weight = np.concatenate([odds_KG, kept_KG], axis=1).astype(np.float32)
        data = np.concatenate([counts_nG, counts_nG > 0], axis=1).astype(np.float32)
        return data @ weight.T + lost_KG.sum(axis=1).astype(np.float32)
