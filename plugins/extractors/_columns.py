"""Items with named columns: one order of columns for every computation, and keys of items by their content.

N items, G columns. "Sorted" columns stand in the order of their names, so that nothing depends on how they came.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from core.errors import UserError
from core.names import near

BLOCK = 1 << 22
"""numbers of a block: large enough for fast arithmetic, small enough for any machine"""


def named(names: Sequence[str]) -> tuple[str, ...]:
    """The names of columns.

    Raises:
        UserError: two columns of one name.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"an extractor tells columns apart by name, and two are called {name!r}; drop one of them")
        seen.add(name)
    return tuple(names)


def ascending(names: Sequence[str]) -> np.ndarray:
    """Positions (G,) of the columns in the order of their names."""
    return np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)


def checked(values_NG: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Items to fit on.

    Raises:
        UserError: no items, another number of columns than names, a value that is not finite, or items that are all
            alike.
    """
    if values_NG.ndim != 2 or values_NG.shape[1] != len(names) or not values_NG.size:
        raise UserError(f"an extractor is fitted on items (N, {len(names)}), got {values_NG.shape}")
    for rows in blocks(len(values_NG), values_NG.shape[1]):
        bad = ~np.isfinite(values_NG[rows])
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise UserError(
                f"item {rows.start + row} has {values_NG[rows][row, column]} in column {names[column]!r}; an extractor "
                "is fitted on finite values only"
            )
    if all((values_NG[rows] == values_NG[0]).all() for rows in blocks(len(values_NG), values_NG.shape[1])):
        raise UserError(
            f"all {len(values_NG)} training items are the same; an extractor has nothing to learn from them"
        )
    return values_NG


def blocks(items: int, each: int) -> Iterator[slice]:
    """Runs of items whose numbers, `each` an item, fit into a block."""
    step = max(1, BLOCK // max(1, each))
    for start in range(0, items, step):
        yield slice(start, min(start + step, items))


def same_columns(kept: Sequence[str], names: Sequence[str] | None) -> tuple[str, ...]:
    """The names that values will come with: those of the fit, perhaps in another order.

    Raises:
        UserError: a name is missing, or is none of the fit's.
    """
    if names is None:
        return tuple(kept)
    given = named(names)
    missing, more = [n for n in kept if n not in set(given)], [n for n in given if n not in set(kept)]
    if missing or more:
        said = [f"{len(missing)} of {len(kept)} are missing, such as {missing[0]!r}"] if missing else []
        said += [f"{len(more)} are unknown, such as {more[0]!r}{near(more[0], missing)}"] if more else []
        raise UserError(
            f"the columns are not those that the extractor was fitted on: {'; '.join(said)}. Give the same columns, in "
            "any order"
        )
    return given


def packed(text: str) -> np.ndarray:
    """A text as numbers, which every format of arrays can hold."""
    return np.frombuffer(text.encode(), dtype=np.uint8).copy()


def unpacked(array: np.ndarray) -> str:
    return np.ascontiguousarray(array, dtype=np.uint8).tobytes().decode()


def keys(values_NG: np.ndarray, marks_G: np.ndarray, salt: str) -> list[bytes]:
    """SHA-256 of each item's entries that are not 0, with the mark of their column; equal for equal items.

    Args:
        values_NG: items, float32, sorted columns.
        marks_G: int64, what tells columns apart.
        salt: keys of different salts have nothing in common.
    """
    start = hashlib.sha256(salt.encode())
    found = []
    for value_G in values_NG:
        there = np.flatnonzero(value_G)
        key = start.copy()
        key.update(marks_G[there].astype("<i8").tobytes())
        key.update(value_G[there].astype("<f4").tobytes())
        found.append(key.digest())
    return found


def numbers(digests: Sequence[bytes]) -> np.ndarray:
    """The first 63 bits of each key, int64."""
    return np.array([int.from_bytes(key[:8], "big") >> 1 for key in digests], dtype=np.int64)


def marks(names: Sequence[str]) -> np.ndarray:
    """A number (G,) for each name, a function of the name alone."""
    return numbers([hashlib.sha256(name.encode()).digest() for name in names])
