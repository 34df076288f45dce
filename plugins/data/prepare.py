"""From counts and coordinates to numbers of order one that a network can read, and back.

n cells, G genes, P axes of space, S sections, k chosen rows.
"""

from __future__ import annotations

from typing import Literal, final

import attrs
import numpy as np
import scipy.sparse as sp

from core.errors import UserError
from core.params import knob, params
from plugins.data.cells import Block, CellTable, dense, stored

LOG_ABOVE = 30.0
"""`auto` takes the logarithm of fractional values that reach beyond this: no log-transformed count does"""
FLAT = 1e-6
"""a gene whose deviation is below this share of 1 + |mean| counts as constant"""


@final
@params
class Prepare:
    """How expression is put on the scale a network reads."""

    transform: Literal["auto", "counts", "log1p", "none"] = knob(
        "auto",
        "counts: scale each cell to `target_sum` over the genes here, then log(1 + x); log1p: log(1 + x) only; none: "
        "as stored; auto: counts for whole numbers >= 0, log1p for other values >= 0 that reach beyond 30, else none",
    )
    target_sum: float = knob(
        1e4,
        "total of each cell after scaling; on a gene panel it is the panel's total, not the cell's",
        gt=0,
        acts="transform=auto|counts",
    )
    clip: float = knob(10.0, "standardised expression is held within +- this many deviations", gt=0, unit="sd")


@final
@attrs.frozen
class Survey:
    """What one walk over a matrix says of its values."""

    low: float
    high: float
    whole: bool
    """every value is a whole number"""
    zeros: float
    """share of values that are 0"""


def survey(table: CellTable) -> Survey:
    """Walk the matrix once.

    Raises:
        UserError: it holds NaN or infinite values, or nothing but zeros.
    """
    low, high, whole, filled, bad, first = np.inf, -np.inf, True, 0, 0, -1
    for block in table.blocks(np.arange(table.cells)):
        values = stored(block)
        finite = np.isfinite(values)
        if not finite.all():
            genes = block.indices[~finite] if sp.issparse(block) else np.nonzero(~finite)[1]
            first = int(genes[0]) if first < 0 else first
            bad += len(genes)
            continue
        # A sparse block that leaves entries out holds zeros besides what it stores.
        implied = [0.0] if values.size < np.prod(block.shape) else []
        low = min(low, *implied, float(values.min(initial=np.inf)))
        high = max(high, *implied, float(values.max(initial=-np.inf)))
        whole = whole and bool((values == np.rint(values)).all())
        filled += int(np.count_nonzero(values))
    if bad:
        raise UserError(
            f"{table.where['expression']} holds {bad} NaN or infinite value(s), the first in gene "
            f"{table.genes[first]!r}: remove these genes or cells, or name another matrix with `layer`"
        )
    if not filled:
        raise UserError(
            f"{table.where['expression']} holds nothing but zeros, so there is no expression to learn: name the matrix "
            "that holds it with `layer`"
        )
    return Survey(low, high, whole, 1.0 - filled / (table.cells * len(table.genes)))


@final
@attrs.frozen(kw_only=True, eq=False)
class Preparation:
    """A fitted preparation: a function of the training cells, and for positions of each section's centre."""

    transform: Literal["counts", "log1p", "none"]
    reason: str
    """which transform was taken and why, for the report"""
    target_sum: float
    clip: float
    mean_G: np.ndarray
    std_G: np.ndarray
    """of the transformed training cells; 0 for a gene that is constant there"""
    centre_SP: np.ndarray
    """mean position of all cells of a section"""
    scale: float
    """input units in one model unit: the rms deviation, an axis, of training cells from their section's centre"""

    def transformed(self, values_kG: Block, total_k: np.ndarray) -> Block:
        """Values of cells with these totals on the transformed scale; zeros stay zeros, sparse stays sparse."""
        if self.transform == "none":
            return values_kG
        factor_k = np.ones(len(total_k), np.float32)
        if self.transform == "counts":
            # A cell without a count keeps its zeros.
            factor_k = (self.target_sum / np.where(total_k > 0, total_k, 1.0)).astype(np.float32)
        if sp.issparse(values_kG):
            logs = np.log1p(values_kG.data * np.repeat(factor_k, np.diff(values_kG.indptr)))
            return sp.csr_matrix((logs, values_kG.indices, values_kG.indptr), shape=values_kG.shape)
        return np.log1p(values_kG * factor_k[:, None])

    def standardised(self, values_kG: np.ndarray) -> np.ndarray:
        """Transformed values in model units: float32 deviations from the training mean, clipped; constant genes 0."""
        known_G = self.std_G > 0
        slope_G = (known_G / np.where(known_G, self.std_G, 1.0)).astype(np.float32)
        out_kG = (values_kG.astype(np.float32, copy=False) - self.mean_G.astype(np.float32)) * slope_G
        return np.clip(out_kG, -self.clip, self.clip, out=out_kG)

    def expression(self, table: CellTable, index_k: np.ndarray) -> np.ndarray:
        """Rows of a table in model units, float32 (k, G)."""
        return self.standardised(dense(self._rows(table.rows(index_k))))

    def position(self, table: CellTable, index_k: np.ndarray) -> np.ndarray:
        """Positions in model units, float32 (k, P), relative to the centre of the section."""
        return self.placed(table.position_nP[index_k], table.section_n[index_k])

    def placed(self, position_kP: np.ndarray, section_k: np.ndarray) -> np.ndarray:
        """Input positions of these sections in model units, float32."""
        return ((position_kP - self.centre_SP[section_k]) / self.scale).astype(np.float32)

    def _rows(self, block: Block) -> Block:
        return self.transformed(block, np.asarray(block.sum(axis=1, dtype=np.float64)).ravel())


def fit(table: CellTable, train_k: np.ndarray, knobs: Prepare, seen: Survey) -> Preparation:
    """Choose the transform and learn centres and scales.

    Raises:
        UserError: the transform cannot take the values.
    """
    transform, reason = _choose(table, knobs, seen)
    with np.errstate(over="ignore", invalid="ignore"):
        centre_SP = np.stack([table.position_nP[table.section_n == s].mean(axis=0) for s in range(len(table.sections))])
        away_kP = table.position_nP[train_k] - centre_SP[table.section_n[train_k]]
        scale = float(np.sqrt(np.square(away_kP).mean()))
    if not 0 < scale < np.inf:
        raise UserError(
            f"{table.where['position']} spreads by {scale} around the centre of a section, which no number can scale: "
            "give positions in a unit such as micrometres"
        )
    zeros_G = np.zeros(len(table.genes))
    blank = Preparation(
        transform=transform,
        reason=reason,
        target_sum=knobs.target_sum,
        clip=knobs.clip,
        mean_G=zeros_G,
        std_G=zeros_G,
        centre_SP=centre_SP,
        scale=scale,
    )
    seen_n, mean_G, square_G = 0, zeros_G, zeros_G
    for block in table.blocks(train_k):
        values_kG = dense(blank._rows(block)).astype(np.float64)
        # Pairwise merging (Chan, Golub and LeVeque 1983): a sum of squares would lose a small spread on a large mean.
        own_n, own_G = len(values_kG), values_kG.mean(axis=0)
        away_G = own_G - mean_G
        square_G = square_G + np.square(values_kG - own_G).sum(axis=0)
        square_G = square_G + np.square(away_G) * (seen_n * own_n / (seen_n + own_n))
        seen_n += own_n
        mean_G = mean_G + away_G * (own_n / seen_n)
    std_G = np.sqrt(square_G / seen_n)
    return attrs.evolve(blank, mean_G=mean_G, std_G=np.where(std_G > FLAT * (1 + np.abs(mean_G)), std_G, 0.0))


def _choose(table: CellTable, knobs: Prepare, seen: Survey) -> tuple[Literal["counts", "log1p", "none"], str]:
    span = f"values {seen.low:g} to {seen.high:g}"
    scaled = (
        f"each cell scaled to a total of {knobs.target_sum:g} over the {len(table.genes)} genes here, then log(1 + x)"
    )
    meaning = {"counts": scaled, "log1p": "log(1 + x)", "none": "values as stored"}
    if knobs.transform != "auto":
        if knobs.transform != "none" and seen.low < 0:
            raise UserError(
                f"{table.where['expression']} holds negative values (down to {seen.low:g}), which transform = "
                f"{knobs.transform!r} cannot take: set transform = 'none', or name a matrix of counts with `layer`"
            )
        return knobs.transform, f"{knobs.transform}, as asked: {meaning[knobs.transform]} ({span})"
    if seen.low >= 0 and seen.whole:
        return "counts", f"counts, because every value is a whole number >= 0 ({span}): {scaled}"
    if seen.low >= 0 and seen.high > LOG_ABOVE:
        return (
            "log1p",
            f"log1p, because values are fractional, >= 0 and reach beyond {LOG_ABOVE:g} ({span}): log(1 + x)",
        )
    why = "values are negative" if seen.low < 0 else f"fractional values stay below {LOG_ABOVE:g}, as logarithms do"
    return "none", f"none, because {why} ({span})"
