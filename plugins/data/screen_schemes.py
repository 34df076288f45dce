"""Draws of test and validation conditions. Each function takes conditions in a fixed order and gives sets of them.

Draws use numpy's legacy generator (`RandomState`), whose numbers never change, because published folds were drawn by
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from core.errors import UserError
from core.names import near
from plugins.shared.condition import Members, names_of

Drawn: TypeAlias = tuple[list[Members], list[Members], str]
"""test, valid, and a sentence"""

TRAIN_SHARE = 0.75
"""of the perturbations, and of the doubles of two trained ones (Roohani, Huang and Leskovec 2024)"""
VALID_SHARE = 0.9
"""of the perturbations that stay in train when the simulation split is made once more for validation"""

COMBOSCIPLEX7: tuple[Members, ...] = tuple(
    tuple(sorted(members))
    for members in (
        ("Panobinostat", "Crizotinib"), ("Panobinostat", "Curcumin"), ("Panobinostat", "Sorafenib"),
        ("Panobinostat", "SRT1720"), ("SRT2104", "Alvespimycin"), ("Alvespimycin",), ("Dacinostat",),
    )
)  # fmt: skip


def additive(conditions: Sequence[Members], share: float, valid_share: float, seed: int) -> Drawn:
    """Doubles whose perturbations are all trained on alone.

    Where every double has both singles, test is fold `seed` - 42 of scDFM (arXiv:2602.07103): sorted doubles shuffled,
    the first share of them taken. Validation takes the next ones.

    Raises:
        UserError: fewer than three such doubles.
    """
    present = set(conditions)
    doubles = [c for c in conditions if len(c) >= 2]
    complete = [c for c in doubles if all((one,) in present for one in c)]
    if len(complete) < 3:
        raise UserError(
            "cut.by = 'additive' needs three or more combinations whose perturbations are there alone as well, and "
            f"there are {len(complete)} of {len(doubles)} combinations: set cut.by = 'kfold', 'holdout' or 'covariate'"
        )
    np.random.RandomState(seed).shuffle(order := list(range(len(complete))))
    tests = max(1, int(share * len(complete)))
    valids = max(1, int(valid_share * len(complete)))
    if tests + valids >= len(complete):
        tests, valids = len(complete) - 2, 1
    test = [complete[i] for i in order[:tests]]
    valid = [complete[i] for i in order[tests : tests + valids]]
    left = len(doubles) - len(complete)
    rest = f"; {left} combination(s) without their singles stay in train" if left else ""
    return (
        test,
        valid,
        f"test is {tests} and valid {valids} combinations whose perturbations are trained on alone{rest}",
    )


def holdout(conditions: Sequence[Members], named: Sequence[str], share: float, valid_share: float, seed: int) -> Drawn:
    """Every condition of some perturbations, so that none of them is ever trained on.

    Raises:
        UserError: a perturbation that is not there.
    """
    genes = names_of(conditions)
    for name in named:
        if name not in genes:
            raise UserError(
                f"cut.hold: no condition holds the perturbation {name!r}.{near(name, genes)} There are {len(genes)}"
            )
    drawn = [genes[i] for i in np.random.RandomState(seed).permutation(len(genes))]
    test_genes = set(named) or set(drawn[: max(1, int(share * len(genes)))])
    rest = [gene for gene in drawn if gene not in test_genes]
    valid_genes = set(rest[: max(1, int(valid_share * len(genes)))])
    test = [c for c in conditions if test_genes & set(c)]
    valid = [c for c in conditions if c not in test and valid_genes & set(c)]
    said = f"test is every condition of {len(test_genes)} perturbation(s), valid of {len(valid_genes)} other(s)"
    return test, valid, f"{said}; none of them is trained on, alone or beside another"


def simulation(conditions: Sequence[Members], valid_share: float, seed: int) -> Drawn:
    """GEARS' split (Roohani, Huang and Leskovec 2024, Nat Biotechnol 42:927).

    Test holds unseen singles, and doubles of which 0, 1 or 2 perturbations are seen. Three quarters of the
    perturbations are seen; singles of these and three quarters of their doubles are kept. What is kept is split the
    same way once more, at nine tenths each, for validation.
    """
    kept, test = _simulated(conditions, TRAIN_SHARE, seed)
    _, valid = _simulated(kept, max(VALID_SHARE, 1 - valid_share), seed)
    said = f"{TRAIN_SHARE:.0%} of the perturbations and of their doubles are seen, the rest is test; valid likewise"
    return test, valid, said


def _simulated(conditions: Sequence[Members], share: float, seed: int) -> tuple[list[Members], list[Members]]:
    """Kept and held-out conditions."""
    genes = names_of(conditions)
    seen = set(np.random.RandomState(seed).choice(genes, int(len(genes) * share), replace=False).tolist())
    inside = [c for c in conditions if set(c) <= seen]
    combos = [i for i, c in enumerate(inside) if len(c) > 1]
    chosen = (
        np.random.RandomState(seed).choice(combos, int(len(combos) * share), replace=False).tolist() if combos else []
    )
    kept = [c for i, c in enumerate(inside) if len(c) == 1 or i in chosen]
    return kept, [c for c in conditions if c not in kept]


def kfold(conditions: Sequence[Members], folds: int, fold: int, valid_share: float, seed: int) -> Drawn:
    """Conditions by turns: part `fold` of a shuffled list is test, a share of the others valid.

    Raises:
        UserError: fewer conditions than folds, or a fold that there is not.
    """
    if fold >= folds:
        raise UserError(f"cut.fold = {fold} of cut.folds = {folds}: folds count from 0")
    if len(conditions) < max(folds, 3):
        raise UserError(
            f"cut.folds = {folds} and there are {len(conditions)} perturbed conditions, which is too few to take "
            "turns: lower cut.folds, hold out levels with cut.by = 'covariate', or give a split file"
        )
    parts = np.array_split(np.random.RandomState(seed).permutation(len(conditions)), folds)
    test = [conditions[i] for i in parts[fold]]
    # Taken from the parts that follow, so that each condition is watched about as often as any other.
    rest = [conditions[i] for step in range(1, folds) for i in parts[(fold + step) % folds]]
    valid = rest[: max(1, int(valid_share * len(rest)))]
    return test, valid, f"test is part {fold} of {folds} of the conditions, valid {len(valid)} of the others"
