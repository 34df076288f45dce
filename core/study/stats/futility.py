"""Stopping an arm early because it is losing: all its seeds, at a rung that was planned, and never for winning.

Stopping single trials and averaging those that survive makes an arm look better than it is; stopping a whole arm does
not, as nothing of it is averaged. A stopped arm is reported as stopped, appears in no table of means, and still counts
in the family that `judge` corrects for (`family_size`).
"""

from __future__ import annotations

import attrs

from core.study.stats.contrast import paired
from core.study.stats.scores import Scores

ERRORS = 1.5
"""standard errors that the arm's mean must be worse by"""


@attrs.frozen(kw_only=True)
class Futility:
    """Whether an arm stops, and what decided. A field is None where its number does not exist."""

    stop: bool
    n: int
    """complete pairs at the rung"""
    left_out: int
    difference: float | None
    """mean of arm minus baseline at the rung, in the metric's own unit"""
    error: float | None
    """standard error of the difference"""
    behind: float | None
    """standard errors by which the arm is worse; negative where it is better"""
    why: str
    """in words, whichever way it went"""


def futile(base_S: Scores, arm_S: Scores, larger_is_better: bool) -> Futility:
    """Stop where the paired mean at the rung is worse than the baseline by more than 1.5 standard errors.

    Below 3 complete pairs, and where all differences are the same so that there is no error to measure by, an arm goes
    on. Raises ValueError as `paired` does.
    """
    contrast = paired(base_S, arm_S, larger_is_better=larger_is_better)
    behind = None if contrast.t is None else (-contrast.t if larger_is_better else contrast.t)
    stop = behind is not None and behind > ERRORS
    if behind is None:
        why = f"{contrast.n} complete pairs at the rung give no standard error"
    elif stop:
        why = f"worse than the baseline by {behind:.2f} standard errors over {contrast.n} pairs"
    else:
        why = f"not worse than the baseline by more than {ERRORS} standard errors over {contrast.n} pairs"
    return Futility(
        stop=stop,
        n=contrast.n,
        left_out=contrast.left_out,
        difference=None if contrast.difference is None else contrast.difference.value,
        error=contrast.error,
        behind=behind,
        why=why,
    )
