"""Maths that several metrics share. N items, R rows, P axes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.spatial.distance import cdist

ENTRIES = 1 << 20
"""entries of a matrix that are held at a time; 8 MB in float64"""


PAIRS = 1 << 25
"""distances that one score looks at; a unit that has more is judged by some of its cells"""


def pair(predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both arrays in float64.

    Raises:
        ValueError: they differ in shape.
    """
    same_shape(predicted, true)
    return np.asarray(predicted, np.float64), np.asarray(true, np.float64)


def same_shape(predicted: np.ndarray, true: np.ndarray) -> None:
    """Raise a ValueError where the arrays differ in shape or are not (items, values) with at least one of each."""
    if predicted.shape != true.shape or true.ndim != 2 or true.size == 0:
        raise ValueError(
            f"predicted is {predicted.shape} and true is {true.shape}; "
            "a metric compares two filled arrays of one shape (items, values)"
        )


def blocks(count: int, width: int) -> Iterator[slice]:
    """Slices that cover `count` rows of `width` entries, each of bounded size."""
    step = max(1, ENTRIES // max(1, width))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))


def distances(x_NP: np.ndarray, part: slice | np.ndarray, first: int = 0) -> np.ndarray:
    """Euclidean distances of the items `part` to the items from `first` on, by differences of coordinates."""
    return cdist(x_NP[part], x_NP[first:])


def required(array: np.ndarray | None, name: str) -> np.ndarray:
    """What a metric needs beside prediction and truth.

    Raises:
        ValueError: it is missing.
    """
    if array is None:
        raise ValueError(f"this metric needs {name!r} beside prediction and truth, and none was given")
    return array


def spread(most: int, *arrays: np.ndarray) -> np.ndarray:
    """Indices of at most so many items, all where there are no more.

    Items are sorted by the columns of the arrays, the first column first, and taken at even steps: the choice depends
    on what the items are and not on their order, and it spreads over the first axis of space.
    """
    items = len(arrays[0])
    if items <= most:
        return np.arange(items)
    order_N = np.lexsort(np.hstack(arrays).T[::-1])
    return order_N[np.arange(most) * items // most]


def judged(true_NP: np.ndarray, predicted_NP: np.ndarray) -> np.ndarray:
    """The cells whose distances to all others are looked at: all up to 5,792 cells, else as many as `PAIRS` allows."""
    cells = len(true_NP)
    return spread(cells if cells * cells <= PAIRS else PAIRS // cells, true_NP, predicted_NP)


def centred(x_NP: np.ndarray) -> np.ndarray:
    """Items about their mean; exactly 0 where all items agree, which the mean alone would miss by its rounding."""
    x_NP = x_NP - x_NP[:1]
    return x_NP - x_NP.mean(0)


def onto_extent(predicted_NP: np.ndarray, true_NP: np.ndarray) -> np.ndarray:
    """The prediction stretched, axis by axis, to the extent (largest minus smallest) of the truth.

    Where the truth spans 1 on each axis, as LUNA prepares it, this is LUNA's min-max scaling of predictions.
    """
    span_P, wanted_P = np.ptp(predicted_NP, 0), np.ptp(true_NP, 0)
    return predicted_NP * np.divide(wanted_P, span_P, out=np.ones_like(span_P), where=span_P > 0)


def correlations(a_RN: np.ndarray, b_RN: np.ndarray) -> np.ndarray:
    """Pearson correlation of each row of `a_RN` with that row of `b_RN`, (R,); 0 where a row is constant."""
    a_RN, b_RN = _unit(a_RN), _unit(b_RN)
    return np.clip(np.einsum("rn,rn->r", a_RN, b_RN), -1.0, 1.0)


def _unit(x_RN: np.ndarray) -> np.ndarray:
    """Rows about their mean and of norm 1, or all 0."""
    x_RN = centred(np.asarray(x_RN, np.float64).T).T
    # By the largest entry first, so that squares neither overflow nor vanish.
    x_RN = divided(x_RN, np.abs(x_RN).max(1))
    return divided(x_RN, np.linalg.norm(x_RN, axis=1))


def divided(x_RN: np.ndarray, by_R: np.ndarray) -> np.ndarray:
    """Rows over their divisor, or all 0 where it is 0."""
    return np.divide(x_RN, by_R[:, None], out=np.zeros_like(x_RN), where=by_R[:, None] > 0)
