"""From the matrix of a screen to log1p of normalised counts over chosen genes; everything learned is learned on train.

n cells, G genes of the file, k chosen rows.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, final

import attrs
import numpy as np
import scipy.sparse as sp

from core.errors import UserError
from core.params import knob, params
from plugins.data.cells import Block, dense, stored
from plugins.data.screen_table import ScreenTable

HIGHEST = 15.0
"""no log1p of normalised counts reaches this (as cell-eval has it): what does is counts"""
BINS = 20
"""of mean expression, within which dispersions are compared"""


@final
@params
class ScreenPrepare:
    """How expression becomes log1p of normalised counts, and which genes are kept."""

    transform: Literal["auto", "counts", "log1p", "none"] = knob(
        "auto",
        "counts: scale each cell to `target_sum` over all genes of the file, then log(1 + x); log1p: log(1 + x) of "
        "values that are normalised already; none: values are such logarithms; auto: counts for whole numbers, none "
        "for others below 15, else log1p, judged on training cells",
    )
    target_sum: float = knob(
        1e4,
        "total of each cell after scaling; a constant, so that nothing is fitted",
        gt=0,
        acts="transform=auto|counts",
    )
    genes: int = knob(
        1000,
        "genes to keep: the most variable ones on training and control cells, and every perturbed gene; 0: all",
        ge=0,
    )


@final
@attrs.frozen(kw_only=True)
class Survey:
    """What one walk over a matrix says of its values."""

    low: float
    high: float
    whole: bool


def survey(table: ScreenTable, rows: np.ndarray) -> Survey:
    """Walk some rows of the matrix.

    Raises:
        UserError: NaN, infinite or negative values.
    """
    high, whole = 0.0, True
    for block in table.blocks(rows):
        values = stored(block)
        if not np.isfinite(values).all():
            wrong = ~np.isfinite(values)
            gene = block.indices[wrong][0] if sp.issparse(block) else np.nonzero(wrong)[1][0]
            raise UserError(
                f"{table.where} holds NaN or infinite values, for instance in gene {table.genes[int(gene)]!r}: remove "
                "these cells or genes, or name another matrix with `layer`"
            )
        if values.size and values.min() < 0:
            raise UserError(
                f"{table.where} holds negative values (down to {values.min():g}), and expression is counts or log1p of "
                "them, not scaled values: name a matrix of counts or of logarithms with `layer`"
            )
        high = max(high, float(values.max(initial=0)))
        whole = whole and bool((values == np.rint(values)).all())
    return Survey(low=0.0, high=high, whole=whole)


@final
@attrs.frozen(kw_only=True, eq=False)
class ScreenScale:
    """A transform that was decided on: a function of one cell alone."""

    transform: Literal["counts", "log1p", "none"]
    reason: str
    target_sum: float

    def apply(self, block: Block) -> Block:
        """Rows over all genes of their file as log1p of normalised counts, float32; zeros stay zeros."""
        if self.transform == "none":
            return block
        factor_k = np.ones(block.shape[0], np.float32)
        if self.transform == "counts":
            total_k = np.asarray(block.sum(axis=1, dtype=np.float64)).ravel()
            factor_k = (self.target_sum / np.where(total_k > 0, total_k, 1.0)).astype(np.float32)
        if sp.issparse(block):
            logs = np.log1p(block.data * np.repeat(factor_k, np.diff(block.indptr))).astype(np.float32)
            return sp.csr_matrix((logs, block.indices, block.indptr), shape=block.shape)
        return np.log1p(block * factor_k[:, None])


def decide(where: str, knobs: ScreenPrepare, train: Survey, everything: Survey) -> ScreenScale:
    """Choose the transform by the training cells.

    Raises:
        UserError: values that the transform cannot mean, of any cell.
    """
    span = f"training values up to {train.high:g}{', whole numbers' if train.whole else ''}"
    chosen: Literal["counts", "log1p", "none"]
    if knobs.transform == "auto":
        chosen = "counts" if train.whole else "none" if train.high < HIGHEST else "log1p"
        reason = f"{chosen}, found by its values ({span})"
    else:
        chosen, reason = knobs.transform, f"{knobs.transform}, as asked ({span})"
    check_scale(where, chosen, everything)
    meaning = {
        "counts": f"each cell scaled to a total of {knobs.target_sum:g} over all genes of the file, then log(1 + x)",
        "log1p": "log(1 + x)",
        "none": "logarithms as stored",
    }
    return ScreenScale(transform=chosen, reason=f"{reason}: {meaning[chosen]}", target_sum=knobs.target_sum)


def check_scale(where: str, transform: str, seen: Survey, *, trained: bool = False) -> None:
    """Refuse counts where logarithms were said, and the reverse.

    Args:
        trained: the transform is that of a run, to which the values are shown, and can no longer be chosen.

    Raises:
        UserError: with what to say instead.
    """
    layer = "name a matrix of {} with --data.layer"
    if transform == "none" and (seen.high >= HIGHEST or (seen.whole and seen.high > 1)):
        how = f"reaches {seen.high:g}" if seen.high >= HIGHEST else f"holds whole numbers only, up to {seen.high:g}"
        fix = (
            f"these look like counts, and the run was trained on logarithms: {layer.format('logarithms')}"
            if trained
            else "these look like counts (prepare.transform = 'counts') or like values that were not logged "
            "(prepare.transform = 'log1p')"
        )
        raise UserError(
            f"{where} {how}, and log1p of normalised counts is made of fractions and stays below {HIGHEST:g}: {fix}"
        )
    if transform == "log1p" and seen.whole and seen.high > 1 and not trained:
        raise UserError(
            f"{where} holds whole numbers only, up to {seen.high:g}, and prepare.transform = 'log1p' is for values "
            "that are normalised already: these look like counts (prepare.transform = 'counts')"
        )
    if transform != "none" and not seen.whole and seen.high < HIGHEST:
        fix = (
            f"the run was trained on {'counts' if transform == 'counts' else 'values that were not logged'}: "
            f"{layer.format('such values')}"
            if trained
            else "set prepare.transform = 'none', or name a matrix of counts with `layer`"
        )
        raise UserError(
            f"{where} holds fractions below {HIGHEST:g} (up to {seen.high:g}), which look like logarithms already: "
            f"{fix}"
        )


@final
@attrs.frozen(kw_only=True, eq=False)
class Statistics:
    """Of the chosen genes over some cells, in model units."""

    mean_G: np.ndarray
    sd_G: np.ndarray
    zero_G: np.ndarray
    """share of cells in which a gene is 0"""

    def at(self, order_G: np.ndarray) -> Statistics:
        """The genes in another order."""
        return Statistics(mean_G=self.mean_G[order_G], sd_G=self.sd_G[order_G], zero_G=self.zero_G[order_G])


def statistics(table: ScreenTable, rows: np.ndarray, scale: ScreenScale, kept_G: np.ndarray) -> Statistics:
    """Mean, deviation and zero rate of genes over rows, in one walk.

    Args:
        kept_G: columns.
    """
    count, mean_G, square_G, filled_G = 0, np.zeros(len(kept_G)), np.zeros(len(kept_G)), np.zeros(len(kept_G))
    for block in table.blocks(rows):
        x_kG = dense(scale.apply(block))[:, kept_G].astype(np.float64)
        # Pairwise merging (Chan, Golub and LeVeque 1983).
        own, own_G = len(x_kG), x_kG.mean(axis=0)
        away_G = own_G - mean_G
        square_G += np.square(x_kG - own_G).sum(axis=0) + np.square(away_G) * (count * own / (count + own))
        count += own
        mean_G = mean_G + away_G * (own / count)
        filled_G += (x_kG != 0).sum(axis=0)
    return Statistics(mean_G=mean_G, sd_G=np.sqrt(square_G / count), zero_G=1 - filled_G / count)


def prepared(table: ScreenTable, scale: ScreenScale, kept_G: np.ndarray) -> Block:
    """All cells in model units over some columns, (n, kept) float32, dense or CSR as the table is."""
    parts = [scale.apply(block)[:, kept_G] for block in table.blocks(np.arange(table.cells))]
    return sp.vstack(parts, format="csr") if sp.issparse(parts[0]) else np.concatenate(parts)


def choose_genes(
    table: ScreenTable, rows: np.ndarray, scale: ScreenScale, count: int, forced: Collection[str]
) -> tuple[np.ndarray, int]:
    """Columns of the most variable genes in their own order, and how many forced ones came on top.

    Normalised dispersion (Satija et al. 2015, Nat Biotechnol 33:495): the logarithm of variance over mean of normalised
    counts, standardised within bins of mean expression.

    Args:
        rows: training and control cells; no other is looked at.
        count: how many; 0: all.
        forced: genes that are kept in any case, if the file has them.
    """
    total = len(table.genes)
    if not count or count >= total:
        return np.arange(total), 0
    sum_G, square_G = np.zeros(total), np.zeros(total)
    for block in table.blocks(rows):
        values = scale.apply(block)
        if sp.issparse(values):
            plain = np.expm1(values.data.astype(np.float64))
            sum_G += np.bincount(values.indices, plain, total)
            square_G += np.bincount(values.indices, np.square(plain), total)
        else:
            plain_kG = np.expm1(np.asarray(values, np.float64))
            sum_G += plain_kG.sum(axis=0)
            square_G += np.square(plain_kG).sum(axis=0)
    mean_G = sum_G / len(rows)
    spread_G = np.maximum(square_G / len(rows) - np.square(mean_G), 0)
    score_G = np.full(total, -np.inf)
    live = np.flatnonzero((mean_G > 0) & (spread_G > 0))
    log_k, level_k = np.log(spread_G[live] / mean_G[live]), np.log1p(mean_G[live])
    low, high = (level_k.min(), level_k.max()) if len(live) else (0.0, 0.0)
    bin_k = np.searchsorted(np.linspace(low, high, BINS + 1)[1:-1], level_k)
    for number in np.unique(bin_k):
        inside = bin_k == number
        sd = log_k[inside].std()
        # A bin of one gene has no spread to be judged by: it counts as average.
        score_G[live[inside]] = (log_k[inside] - log_k[inside].mean()) / sd if sd > 0 else 0.0
    order = np.lexsort((np.arange(total), -score_G))
    kept = set(order[:count].tolist())
    extra = {i for i, gene in enumerate(table.genes) if gene in forced} - kept
    return np.array(sorted(kept | extra)), len(extra)
