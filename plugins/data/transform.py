"""What preprocessing does to the expression of a section, with everything that is needed to undo or to repeat it.

n cells, G genes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import attrs
import numpy as np
import scipy.sparse as sp

from core.params import knob, params
from plugins.data.cells import Block
from plugins.data.prepare import FLAT


@final
@params
class Transform:
    """How counts become the stored values: total, logarithm, scale, each of which can be left out."""

    normalize: bool = knob(True, "scale each cell to `--target-sum` over the genes of the panel")
    target_sum: float = knob(1e4, "total of a cell after that", gt=0)
    log1p: bool = knob(True, "take log(1 + x)")
    scale: bool = knob(
        True, "each gene of each section to mean 0 and deviation 1 (stored sparse: deviation 1 only, zeros stay)"
    )

    def describe(self, *, sparse: bool) -> str:
        """The steps in words."""
        steps = [f"each cell scaled to a total of {self.target_sum:g} over the panel"] if self.normalize else []
        steps += ["log(1 + x)"] if self.log1p else []
        scaled = "deviation 1 (zeros stay)" if sparse else "mean 0 and deviation 1"
        steps += [f"each gene of each section to {scaled}"] if self.scale else []
        return ", then ".join(steps) or "values as they were"


@final
@attrs.frozen(kw_only=True, eq=False)
class Fitted:
    """A transform with the statistics of one section."""

    knobs: Transform
    mean_G: np.ndarray
    """float64, of the values before they are scaled"""
    std_G: np.ndarray
    """0 for a gene that is constant in the section, whose scaled value is 0"""
    centred: bool
    """whether scaling takes the mean away"""

    @classmethod
    def fit(cls, counts_nG: Block, knobs: Transform) -> tuple[Fitted, Block, np.ndarray]:
        """The statistics of a section, its stored values (float32), and its cells' totals (n,)."""
        unscaled_nG, total_n = _unscaled(counts_nG, knobs)
        mean_G, std_G = _moments(unscaled_nG)
        fitted = cls(knobs=knobs, mean_G=mean_G, std_G=std_G, centred=not sp.issparse(counts_nG))
        return fitted, fitted._scaled(unscaled_nG), total_n

    def apply(self, counts_nG: Block) -> Block:
        """New cells of the same section, or of one like it, as stored values (float32)."""
        return self._scaled(_unscaled(counts_nG, self.knobs)[0])

    def invert(self, values_nG: Block, total_n: np.ndarray) -> np.ndarray:
        """Stored values back in the units of the input, dense float64.

        Args:
            values_nG: as `apply` gives them.
            total_n: the cells' totals before they were normalised; a cell without a count has none to return to.
        """
        x_nG = (values_nG.toarray() if sp.issparse(values_nG) else np.asarray(values_nG)).astype(np.float64)
        if self.knobs.scale:
            known_G = self.std_G > 0
            x_nG *= np.where(known_G, self.std_G, 1.0)
            if self.centred:
                x_nG = np.where(known_G, x_nG, 0.0) + self.mean_G
        if self.knobs.log1p:
            x_nG = np.expm1(x_nG)
        if self.knobs.normalize:
            x_nG *= np.where(total_n > 0, total_n / self.knobs.target_sum, 1.0)[:, None]
        return x_nG

    def to_json(self) -> dict[str, Any]:
        """Everything, in types that JSON writes without loss."""
        return {
            "knobs": attrs.asdict(self.knobs),  # type: ignore[arg-type]
            "mean": self.mean_G.tolist(),
            "std": self.std_G.tolist(),
            "centred": self.centred,
        }

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Fitted:
        """What `to_json` wrote."""
        return cls(
            knobs=Transform(**said["knobs"]),
            mean_G=np.array(said["mean"], np.float64),
            std_G=np.array(said["std"], np.float64),
            centred=bool(said["centred"]),
        )

    def _scaled(self, unscaled_nG: Block) -> Block:
        if not self.knobs.scale:
            return unscaled_nG.astype(np.float32)
        known_G = self.std_G > 0
        slope_G = known_G / np.where(known_G, self.std_G, 1.0)
        if sp.issparse(unscaled_nG):
            # A constant gene that is not 0 keeps its value: sparse values are not centred, so 0 would change it.
            slope_G = np.where(known_G, slope_G, 1.0)
            scaled = unscaled_nG.copy()
            scaled.data = (scaled.data * slope_G[scaled.indices]).astype(np.float32)
            return scaled.astype(np.float32)
        if not self.centred:
            return (unscaled_nG * np.where(known_G, slope_G, 1.0)).astype(np.float32)
        return ((unscaled_nG - self.mean_G) * slope_G).astype(np.float32)


def _unscaled(counts_nG: Block, knobs: Transform) -> tuple[Block, np.ndarray]:
    """Values before scaling, in float64, and totals (n,)."""
    sparse = sp.issparse(counts_nG)
    out: Block = sp.csr_matrix(counts_nG, dtype=np.float64, copy=True) if sparse else np.array(counts_nG, np.float64)
    total_n = np.asarray(out.sum(axis=1)).ravel()
    if knobs.normalize:
        factor_n = np.where(total_n > 0, knobs.target_sum / np.where(total_n > 0, total_n, 1.0), 1.0)
        if sparse:
            out.data *= np.repeat(factor_n, np.diff(out.indptr))
        else:
            out *= factor_n[:, None]
    if knobs.log1p:
        np.log1p(out.data if sparse else out, out=out.data if sparse else out)
    return out, total_n


def _moments(x_nG: Block) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each column; the deviation of a column that counts as constant is 0."""
    count = x_nG.shape[0]
    if sp.issparse(x_nG):
        columns = x_nG.shape[1]
        mean_G = np.bincount(x_nG.indices, x_nG.data, columns) / count
        filled_G = np.bincount(x_nG.indices, minlength=columns)
        away = np.bincount(x_nG.indices, np.square(x_nG.data - mean_G[x_nG.indices]), columns)
        std_G = np.sqrt((away + (count - filled_G) * np.square(mean_G)) / count)
    else:
        mean_G = x_nG.mean(axis=0)
        std_G = np.sqrt(np.mean(np.square(x_nG - mean_G), axis=0))
    return mean_G, np.where(std_G > FLAT * (1 + np.abs(mean_G)), std_G, 0.0)
