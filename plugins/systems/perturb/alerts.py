"""What a table of scores hides, as sentences. n cells, G genes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from core.kinds.comparison import Comparison
from core.kinds.metric import Graded
from core.score import MODEL
from plugins.systems.perturb.judge import Judged, interval

GAP = 0.05
"""mean difference in the share of zeros that is told"""
COLLAPSE = 0.2
"""share of the real variance below which cells are nearly one cell repeated"""
COPIED = 0.1
"""share of a condition's cells that chance does not copy"""
ALIKE = 1e-6
"""mean difference of two conditions below which they are the same prediction"""
NAMED = 5
"""conditions that a sentence names"""

Groups = Mapping[str, np.ndarray]


def alerts(comparison: Comparison, judged: Judged, rng: np.random.Generator) -> list[str]:
    """Every warning that applies to the model's arm."""
    sides = comparison.predicted, comparison.truth.groups
    found = [counts(*sides), copied(*sides), zeros(*sides), constant(comparison.predicted), collapse(*sides)]
    model = judged.of(MODEL, "pearson_delta")
    rival = judged.of("perturbed mean", "pearson_delta")
    if model is not None and rival is not None:
        found.append(no_better(model.graded, rival.graded, rng))
    return [sentence for sentence in found if sentence]


def counts(predicted: Groups, real: Groups) -> str:
    """Whether predicted and real cells are as many, condition by condition."""
    differ = [name for name in real if len(predicted[name]) != len(real[name])]
    if not differ:
        return ""
    pairs = [f"{name} ({len(predicted[name])} for {len(real[name])})" for name in differ]
    return (
        f"{len(differ)} of {len(real)} conditions have another number of predicted than of real cells: {_some(pairs)}. "
        "Tests for differing genes find more in more cells, so metrics named de_, overlap, precision and auc compare "
        "unlike things: predict as many cells as are real."
    )


def copied(predicted: Groups, real: Groups) -> str:
    """Whether predicted cells are the real cells of their own condition, to the last bit."""
    share = {}
    for name, table in real.items():
        known = {row.tobytes() for row in table if row.any()}
        share[name] = sum(row.tobytes() in known for row in predicted[name]) / len(predicted[name])
    many = [f"{name} ({value:.0%})" for name, value in share.items() if value > COPIED]
    if not many:
        return ""
    return (
        f"In {len(many)} of {len(real)} conditions predicted cells are copies of the real cells that they are judged "
        f"by: {_some(many)}. No score says anything of a model then."
    )


def zeros(predicted: Groups, real: Groups) -> str:
    """Whether the predictions lack, or have too many, exact zeros."""
    found, wanted = (np.array([(side[name] == 0).mean() for name in real]) for side in (predicted, real))
    gap = float(np.abs(found - wanted).mean())
    if gap <= GAP:
        return ""
    remedy = (
        "too few: restore zeros before cells are judged"
        if found.mean() < wanted.mean()
        else "too many: small values were taken for zeros, or the model was trained too little"
    )
    return (
        f"{found.mean():.0%} of predicted values are exactly 0 and {wanted.mean():.0%} of real ones, {remedy}. Every "
        "metric of differing genes is distorted by that."
    )


def constant(predicted: Groups) -> str:
    """Whether all conditions are predicted alike."""
    means = np.stack([table.mean(0, dtype=np.float64) for table in predicted.values()])
    if len(means) < 2 or np.abs(means - means[0]).mean() > ALIKE:
        return ""
    return (
        f"All {len(means)} conditions are predicted alike: the perturbation has no influence on the prediction. "
        f"Discrimination is then (P + 1) / (2 P) = {(len(means) + 1) / (2 * len(means)):.3f}, not a half."
    )


def collapse(predicted: Groups, real: Groups) -> str:
    """Whether cells of a condition vary far less than real ones."""
    share = {}
    for name, table in real.items():
        true, found = (float(side.var(0, dtype=np.float64).sum()) for side in (table, predicted[name]))
        if true > 0 and found / true < COLLAPSE:
            share[name] = found / true
    if not share:
        return ""
    said = [f"{name} ({value:.2f})" for name, value in sorted(share.items(), key=lambda pair: pair[1])]
    return (
        f"Mode collapse: in {len(share)} of {len(real)} conditions the predicted cells have less than {COLLAPSE:.0%} "
        f"of the variance of real ones: {_some(said)}. Metrics of means do not see it."
    )


def no_better(model: Graded, rival: Graded, rng: np.random.Generator) -> str:
    """Whether a model that should score higher beats the perturbed mean beyond the interval over conditions."""
    shared = [name for name in model.groups if name in rival.groups]
    if not shared:
        return ""
    gain = Graded.mean({name: model.groups[name] - rival.groups[name] for name in shared})
    told = "the perturbed mean, one prediction for all conditions: difference"
    if len(shared) == 1:
        said = (
            f"By pearson_delta the prediction of the single condition is below {told} {gain.value:+.3f}; one condition "
            "has no interval, so this may be chance."
        )
        return "" if gain.value > 0 else said
    low, high = interval(gain, rng)
    if low > 0:
        return ""
    word = "worse than" if high < 0 else "no better than"
    return (
        f"By pearson_delta the prediction is {word} {told} {gain.value:+.3f}, 95 % interval {low:+.3f} to {high:+.3f} "
        f"over {len(shared)} conditions."
    )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
