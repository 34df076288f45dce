"""Where a prediction stands: beside every baseline and the ceiling, with warnings. n cells, G genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import attrs
import numpy as np

from core.kinds.comparison import Truth
from core.kinds.metric import GroupMetric
from core.score import MODEL
from plugins.systems.perturb.alerts import alerts
from plugins.systems.perturb.baselines import Baseline, Train, fit
from plugins.systems.perturb.judge import Groups, Judged, judge


@final
@attrs.frozen(kw_only=True)
class Standing:
    """Scores, and sentences for the reader."""

    judged: Judged
    warnings: tuple[str, ...]
    notes: tuple[str, ...]


def stand(
    truth: Truth,
    predicted: Groups,
    train: Train | None,
    metrics: Sequence[GroupMetric],
    rng: np.random.Generator,
    *,
    others: Mapping[str, Groups] | None = None,
    ceiling: bool = True,
) -> Standing:
    """Judge a prediction of one stratum.

    Args:
        truth: real cells by canonical condition; its reference are the stratum's real controls.
        predicted: (n, G) cells by condition, as many as are real.
        train: what baselines learn from; None leaves them out.
        metrics: what is scored.
        rng: cells of the baselines, halves of real cells, resamples of conditions.
        others: further arms, such as the same model without a part, by name.
        ceiling: whether the real cells are scored against themselves.

    Raises:
        ValueError: prediction and truth hold other conditions.
        UserError: a condition's stratum has no controls in `train`.
    """
    arms = {MODEL: predicted, **(others or {})}
    notes: list[str] = []
    if train is not None:
        fitted = fit(train)
        arms |= {b.name: {n: b.cells(n, len(cells), rng) for n, cells in truth.groups.items()} for b in fitted}
        notes += [said for baseline in fitted if (said := _unknown(baseline, truth))]
    judged = judge(truth, arms, metrics, rng, ceiling=ceiling)
    warnings = alerts(truth.against(predicted), judged, rng)
    return Standing(judged=judged, warnings=tuple(warnings), notes=(*notes, *judged.notes))


def _unknown(baseline: Baseline, truth: Truth) -> str:
    """What a baseline did not know of the conditions, of the first of them in words."""
    said = [told for name in truth.groups if (told := baseline.told(name))]
    others = f", and the like in {len(said) - 1} more of {len(truth.groups)} conditions" if len(said) > 1 else ""
    return f"{baseline.name}: {said[0]}{others}." if said else ""


def matched(predicted: Groups, real: Groups, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """As many predicted cells as are real, condition by condition: surplus is drawn out, too few stay too few."""
    return {name: _cut(predicted[name], len(table), rng) for name, table in real.items()}


def _cut(table_nG: np.ndarray, most: int, rng: np.random.Generator) -> np.ndarray:
    """At most so many rows, drawn without replacement."""
    return table_nG if len(table_nG) <= most else table_nG[np.sort(rng.permutation(len(table_nG))[:most])]
