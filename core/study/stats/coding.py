"""The design matrix of a factorial study: sum-coded factors, their two-way interactions, and seeds as blocks.

Shape legend: N trials, C columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence

import attrs
import numpy as np

from core.study.stats.scores import Floats, Scores, values

TOLERANCE = 1e-9
"""of the largest singular value: below it a direction of the design counts as absent"""
UNSEEN = 1e-6
"""share of a coefficient that may be out of sight, for rounding"""


@attrs.frozen(kw_only=True, eq=False)
class Term:
    """The columns of one main effect or two-way interaction."""

    factors: tuple[str, ...]
    columns_NC: Floats
    levels: tuple[str, ...]
    """what each row of `rows_LC` is the effect of, levels joined by ":" """
    rows_LC: Floats
    """takes coefficients to one deviation a level, deviations that sum to 0 over each factor"""

    @property
    def name(self) -> str:
        return ":".join(self.factors)


def sum_coding(levels: int) -> Floats:
    """(levels, levels - 1): level i is coded by 1 in column i, the last one by -1 in all."""
    return np.vstack([np.eye(levels - 1), -np.ones((1, levels - 1))])


def terms(levels: Mapping[str, Sequence[str]], given: Mapping[str, Sequence[str]]) -> list[Term]:
    """Main effects, then two-way interactions; `levels` of each factor in order, `given` the level of each trial."""
    mains = []
    for name, known in levels.items():
        rows = sum_coding(len(known))
        place = [known.index(level) for level in given[name]]
        mains.append(Term(factors=(name,), columns_NC=rows[place], levels=tuple(known), rows_LC=rows))
    return mains + [_product(a, b) for a, b in itertools.combinations(mains, 2)]


def blocks(seeds: Sequence[str]) -> Floats:
    """The intercept, and seeds as blocks."""
    known = sorted(set(seeds))
    place = [known.index(seed) for seed in seeds]
    return np.hstack([np.ones((len(seeds), 1)), sum_coding(len(known))[place]])


def estimable(blocks_NC: Floats, model: Sequence[Term]) -> list[bool]:
    """Of each term, whether the trials there are tell all its coefficients from every other column of the model."""
    x_NC = np.hstack([blocks_NC, *(term.columns_NC for term in model)])
    # 1 - a coefficient's diagonal entry of pinv(X) X is what of it the trials do not see.
    unseen_C = 1 - np.einsum("cn,nc->c", np.linalg.pinv(x_NC, rcond=TOLERANCE), x_NC)
    told, start = [], blocks_NC.shape[1]
    for term in model:
        stop = start + term.columns_NC.shape[1]
        told.append(bool(unseen_C[start:stop].max() < UNSEEN))
        start = stop
    return told


def trials(
    y: Scores, factors: Mapping[str, Sequence[Hashable]], seeds: Sequence[Hashable]
) -> tuple[Floats, dict[str, list[str]], list[str], int]:
    """The trials that have a score: scores, levels and seeds as text, and how many trials were left out."""
    y_N = values("y", y)
    if not factors:
        raise ValueError("there are no factors.")
    for name, given in [*factors.items(), ("seeds", seeds)]:
        if len(given) != y_N.size:
            raise ValueError(f"{name} has {len(given)} entries and y {y_N.size}; each trial needs one of both.")
    kept = [i for i, missing in enumerate(np.isnan(y_N)) if not missing]
    if not kept:
        raise ValueError("no trial has a score.")
    levels = {name: [str(given[i]) for i in kept] for name, given in factors.items()}
    return y_N[kept], levels, [str(seeds[i]) for i in kept], y_N.size - len(kept)


def ordered(name: str, given: Sequence[str], baseline: Mapping[str, Hashable]) -> tuple[str, ...]:
    """The levels of a factor, the baseline's first."""
    known = sorted(set(given))
    if name not in baseline:
        return tuple(known)
    first = str(baseline[name])
    if first not in known:
        raise ValueError(f"baseline level {first!r} of {name} has no scored trial; there are {', '.join(known)}.")
    return (first, *(level for level in known if level != first))


def reason(term: Term, given: Mapping[str, Sequence[str]]) -> str:
    """Why a term cannot be estimated."""
    if len(term.factors) > 1:
        known = [list(dict.fromkeys(sorted(given[name]))) for name in term.factors]
        there = set(zip(*(given[name] for name in term.factors), strict=True))
        empty = [":".join(cell) for cell in itertools.product(*known) if cell not in there]
        if empty:
            shown = ", ".join(empty[:3]) + (f" and {len(empty) - 3} more" if len(empty) > 3 else "")
            return f"no scored trial at {shown}"
    return "these trials cannot tell it from other factors, interactions or seeds"


def _product(a: Term, b: Term) -> Term:
    columns = a.columns_NC[:, :, None] * b.columns_NC[:, None, :]
    return Term(
        factors=a.factors + b.factors,
        columns_NC=columns.reshape(len(columns), -1),
        levels=tuple(f"{x}:{y}" for x, y in itertools.product(a.levels, b.levels)),
        rows_LC=np.asarray(np.kron(a.rows_LC, b.rows_LC), dtype=np.float64),
    )
