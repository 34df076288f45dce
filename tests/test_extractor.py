"""Extractors: the laws of the kind, and what each of them is."""

from __future__ import annotations

import pytest

from core.testing.extractor import ExtractorLaws
from plugins.extractors.pca import Pca
from plugins.extractors.random_projection import RandomProjection
from plugins.extractors.shuffled import Shuffled

SIMPLE = [
    Pca(), Pca(k=3, covers="all"), Pca(k=4, times="value", target_std=0.5), RandomProjection(k=4),
    RandomProjection(k=3, seed=5, covers="all"), Shuffled(of=Pca(k=4)), Shuffled(of=RandomProjection(k=2)),
]  # fmt: skip


@pytest.mark.parametrize("extractor", SIMPLE, ids=repr)
class TestExtractors(ExtractorLaws):
    """Every built-in extractor that reads no file obeys the laws."""
