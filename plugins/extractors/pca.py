"""Principal components as latents. N items, G columns, D components."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from core.errors import UserError
from core.kinds.extractor import Extractor
from core.params import knob, params
from core.train.streams import Streams
from plugins.extractors._columns import ascending, blocks, checked, named
from plugins.extractors._loadings import Covers, Loadings, Times
from plugins.extractors._normalised import Normalised, kept_names, normalised, raw_state, restored

EXACT = 512
"""columns up to which all eigenvectors are computed; beyond, Lanczos iteration finds the leading ones"""
LEAST = 1e-10
"""share of the largest variance below which a component is rounding"""


@final
@params
class Pca(Extractor):
    """What each of k principal components of the training items adds to a column of an item.

    raw[n, g, d] = L[g, d] * s[n, d], where the columns of L are the unit eigenvectors of the covariance of the
    training items and s = (x - mean) L their scores. Summed over d it is the reconstruction of x - mean from k
    components, so that a latent tells the state of the whole item as far as it bears on its column; the sign of an
    eigenvector, which is arbitrary, cancels. Every channel is then scaled to one deviation, so that weak components
    weigh as much as strong ones. `times=value` gives L[g, d] * x[n, g] instead, which knows nothing of an entry but
    its own value. With `covers=expressed` only entries that are not 0 are covered, as in models of expressed genes;
    where latents are 0 then tells which these are, so whoever makes latents must first make the zeros of the cell.
    """

    k: int = knob(8, "components, the width of a latent", ge=1)
    times: Times = knob("scores", "what loadings are multiplied with: scores of the item, or the entry's own value")
    covers: Covers = knob("all", "entries that get a latent: all, or those that are not 0")
    target_std: float | None = knob(None, "standard deviation of each channel; none: that of training values", gt=0.0)

    @property
    def dense(self) -> bool:
        return self.covers == "all"

    @property
    def relative(self) -> bool:
        return self.dense

    @property
    def width(self) -> int:
        return self.k

    def fit(self, values_NG: np.ndarray, names: Sequence[str], streams: Streams, device: str = "cpu") -> Normalised:
        """Components in a first pass, means and deviations of the latents in a second.

        Raises:
            UserError: see `Extractor.fit`; or the items vary in fewer than k directions.
        """
        known = named(names)
        order = ascending(known)
        mean_G, loadings_GD = components(checked(values_NG, known), order, self.k)
        raw = Loadings(loadings_GD, mean_G, self.times, self.covers)
        return normalised(raw, values_NG, known, self.target_std, streams=streams, device=device)

    def restore(self, state: Mapping[str, np.ndarray], names: Sequence[str] | None = None) -> Normalised:
        there, given = kept_names(state, names)
        loadings_GD = raw_state(state, "loadings", (len(there), self.k))
        raw = Loadings(loadings_GD, raw_state(state, "centre", (len(there),)), self.times, self.covers)
        return restored(raw, state, given)


def components(values_NG: np.ndarray, order: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean (G,) and the k leading unit eigenvectors (G, k) of the covariance, of columns in `order`, float64.

    Each eigenvector has its largest entry positive.

    Raises:
        UserError: the items vary in fewer than k directions.
    """
    items, columns = values_NG.shape
    mean_G = np.asarray(values_NG.mean(0, dtype=np.float64))[order]
    products_GG = np.zeros((columns, columns))
    for rows in blocks(items, columns):
        apart_NG = values_NG[rows][:, order].astype(np.float64) - mean_G
        products_GG += apart_NG.T @ apart_NG
    if k > min(items - 1, columns):
        raise UserError(
            f"pca: {items} training items of {columns} columns vary in at most {min(items - 1, columns)} directions; "
            f"k={k} is too many"
        )
    if columns <= EXACT or k >= columns // 2:
        variances, vectors_GD = scipy.linalg.eigh(products_GG, subset_by_index=(columns - k, columns - 1))
    else:
        # A start of its own: Lanczos iteration would draw one from numpy's global generator.
        start_G = np.random.Generator(np.random.PCG64(0)).standard_normal(columns)
        variances, vectors_GD = scipy.sparse.linalg.eigsh(products_GG, k, v0=start_G)
    descending = np.argsort(-variances, kind="stable")
    variances, vectors_GD = variances[descending], vectors_GD[:, descending]
    directions = int((variances > LEAST * max(variances[0], 0.0)).sum())
    if directions < k:
        raise UserError(f"pca: the training items vary in {directions} directions only; take k <= {max(directions, 1)}")
    peak_D = np.take_along_axis(vectors_GD, np.abs(vectors_GD).argmax(0)[None], 0)[0]
    return mean_G, vectors_GD * np.sign(peak_D)
