"""Metrics of groups: the laws of the kind, each against a slow reference, and what simple predictions score."""

from __future__ import annotations

import pytest

from core.testing.group_metric import GroupMetricLaws
from plugins.metrics.centroid_accuracy import CentroidAccuracy
from plugins.metrics.de_auc import DeAuc
from plugins.metrics.de_direction_match import DeDirectionMatch
from plugins.metrics.de_nsig_counts import DeNsigCounts
from plugins.metrics.de_overlap import DeOverlap
from plugins.metrics.de_sig_genes_recall import DeSigGenesRecall
from plugins.metrics.de_spearman_lfc_sig import DeSpearmanLfcSig
from plugins.metrics.de_spearman_sig import DeSpearmanSig
from plugins.metrics.discrimination_score import DiscriminationScore
from plugins.metrics.edistance import Edistance
from plugins.metrics.group_mae import GroupMae
from plugins.metrics.group_mse import GroupMse
from plugins.metrics.mmd import Mmd
from plugins.metrics.mmd_u import MmdU
from plugins.metrics.pearson_delta import PearsonDelta
from plugins.metrics.pearson_edistance import PearsonEdistance
from plugins.metrics.pearson_perturbed import PearsonPerturbed
from plugins.metrics.variance_ratio import VarianceRatio
from plugins.metrics.zero_rate_gap import ZeroRateGap

ALL = [
    PearsonDelta(), PearsonDelta(top=6), PearsonPerturbed(), PearsonPerturbed(top=6), GroupMse(), GroupMae(),
    GroupMse(delta=True), GroupMae(delta=True), DiscriminationScore(), DiscriminationScore(distance="l2"),
    DiscriminationScore(distance="cosine"), CentroidAccuracy(), DeOverlap(), DeOverlap(k=3),
    DeOverlap(of_which="precision"), DeOverlap(of_which="precision", k=3), DeSpearmanSig(), DeSpearmanLfcSig(),
    DeDirectionMatch(), DeSigGenesRecall(), DeNsigCounts(), DeNsigCounts(side="real"), DeAuc(), DeAuc(curve="roc"),
    PearsonEdistance(), Edistance(), Mmd(), MmdU(), ZeroRateGap(), VarianceRatio(),
]  # fmt: skip


@pytest.mark.parametrize("metric", ALL, ids=lambda metric: metric.column())
class TestGroupMetrics(GroupMetricLaws):
    """Every built-in metric of groups obeys the laws."""
