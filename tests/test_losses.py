"""The shared losses: the laws of their families, and each loss against its formula written out."""

from __future__ import annotations

import typing

import pytest
from hypothesis import strategies as st

from core.kinds.loss import Reads
from core.testing.losses import (
    LAWS,
    FeatureLossLaws,
    RankingLossLaws,
    SampleLossLaws,
    ScoreLossLaws,
    ViewLossLaws,
    WeightLossLaws,
)
from plugins.losses.aucm import Aucm
from plugins.losses.bce import Bce
from plugins.losses.direction_rank import DirectionRank
from plugins.losses.immax import Immax
from plugins.losses.info_nce import InfoNce
from plugins.losses.mmd import Mmd
from plugins.losses.ortho import Ortho
from plugins.losses.pair_logistic import PairLogistic
from plugins.losses.smooth_ap import SmoothAp
from plugins.losses.soap import Soap
from plugins.losses.spectral import Spectral
from plugins.losses.vicreg_cov import VicregCov
from plugins.losses.vicreg_var import VicregVar

SCORES = [
    st.builds(Bce, pos_weight=st.floats(0.2, 8)),
    st.builds(Bce, prior=st.floats(0.02, 0.9), drawn=st.floats(0.02, 0.9)),
    PairLogistic(),
    st.builds(SmoothAp, tau=st.floats(0.01, 5)),
    st.builds(Soap, margin=st.floats(0.3, 3), rate=st.floats(0.05, 1)),
    st.builds(Aucm, margin=st.floats(0.3, 3)),
    st.builds(Immax, alpha=st.floats(0.2, 0.8)),
]
NAMES = ["bce", "bce_prior", "pair_logistic", "smooth_ap", "soap", "aucm", "immax"]


@pytest.mark.parametrize("loss", SCORES, ids=NAMES)
class TestScores(ScoreLossLaws):
    """The losses of scores obey the laws."""


@pytest.mark.parametrize("loss", [st.builds(DirectionRank, temperature=st.floats(0.5, 3))], ids=["direction_rank"])
class TestRankings(RankingLossLaws):
    """The losses of two rankings obey the laws."""


@pytest.mark.parametrize("loss", [st.builds(InfoNce, temperature=st.floats(0.05, 1))], ids=["info_nce"])
class TestViews(ViewLossLaws):
    """The losses of two views obey the laws."""


@pytest.mark.parametrize(
    "loss",
    [Mmd(), Mmd(estimator="biased"), st.builds(Mmd, min_rows=st.integers(2, 6), scales=st.just((0.3, 2.0)))],
    ids=["mmd", "mmd_biased", "mmd_scales"],
)
class TestSamples(SampleLossLaws):
    """The losses of two samples obey the laws."""


@pytest.mark.parametrize(
    "loss",
    [st.builds(VicregVar, gamma=st.floats(0.2, 3), squared=st.booleans()), VicregCov()],
    ids=["vicreg_var", "vicreg_cov"],
)
class TestFeatures(FeatureLossLaws):
    """The losses of features obey the laws."""


@pytest.mark.parametrize(
    "loss", [Ortho(), st.builds(Spectral, bound=st.floats(0.1, 3), steps=st.integers(1, 3))], ids=["ortho", "spectral"]
)
class TestWeights(WeightLossLaws):
    """The losses of weights obey the laws."""


def test_every_family_has_laws() -> None:
    """What a loss may read, and nothing else, has a class of laws, of which a loss of that family can be found."""
    assert LAWS.keys() == set(typing.get_args(Reads))
    assert all(LAWS[loss.reads].__name__.startswith(family) for loss, family in ((Bce(), "Score"), (Mmd(), "Sample")))
