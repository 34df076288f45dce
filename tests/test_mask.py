"""Masks."""

from __future__ import annotations

import pytest

from core.testing.mask import MaskLaws
from plugins.masks.full import Full


@pytest.mark.parametrize("mask", [Full()], ids=repr)
class TestMasks(MaskLaws):
    """The laws of masks."""


def test_full_hides_nothing() -> None:
    """The full mask shows every pair, counts them without forming them, and says so by its form."""
    assert Full().form == "full"
    assert Full().dense(3, 5).all()
    assert Full().pairs(10**6, 10**6) == 10**12
