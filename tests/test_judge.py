"""Which units the spatial system scores."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from plugins.systems.spatial.judge import FEWEST, Judge


@given(cells=st.dictionaries(st.text("abc", min_size=1), st.integers(1, 3 * FEWEST), min_size=1))
def test_units_of_few_cells_are_told_and_left_out(cells: dict[str, int]) -> None:
    """A small unit is named with its size and not scored beside larger ones; where all are small, all are scored."""
    judge = Judge(())
    chosen = judge.choose(cells)
    small = {name for name, count in cells.items() if count < FEWEST}
    assert chosen
    assert set(chosen) == (set(cells) - small or set(cells))
    assert bool(judge.notes) == bool(small)
    assert all(f"{name} ({cells[name]})" in judge.notes[0] for name in small)
    assert list(judge.evaluation().notes[: len(judge.notes)]) == judge.notes
