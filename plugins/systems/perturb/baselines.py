"""What a model of perturbations has to beat: predictions in closed form, from the means of training conditions.

G genes, n cells, N training conditions, T perturbations, K components. An effect is the mean of a condition less the
mean of the controls of its stratum (cell type, batch), so that a stratum's own level never counts as an effect; with
one stratum these are the formulas of the papers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import final

import attrs
import numpy as np

from core.errors import UserError
from plugins.shared.condition import apart
from plugins.systems.perturb.shifted import shifted

TRIVIAL = ("control mean", "control resample", "perturbed mean", "perturbed mean by condition")
"""baselines that know nothing of which perturbation it was"""
COMPONENTS = 10
"""principal components of genes in the bilinear ridge"""
PENALTY = 0.1
"""of the bilinear ridge"""
PENALTIES = tuple(10.0**power for power in range(-3, 4))
"""of the ridge, of which leaving one condition out chooses"""


@final
@attrs.frozen(kw_only=True, eq=False, slots=False)
class Train:
    """Training conditions, as baselines read them.

    Raises:
        UserError: no controls for a condition's stratum, or arrays of another width.
    """

    genes: tuple[str, ...]
    means: Mapping[str, np.ndarray]
    """canonical condition -> (G,) mean log1p expression; no controls among them"""
    counts: Mapping[str, int]
    """cells of each condition"""
    controls: Mapping[str, np.ndarray]
    """stratum -> (n, G) control cells; the stratum is empty where there is one"""

    def __attrs_post_init__(self) -> None:
        lacking = sorted({apart(name)[1] for name in self.means} - self.controls.keys())
        if lacking:
            raise UserError(
                f"training conditions of {lacking} have no controls of their own; take them out of training"
            )
        for name, values in [*self.means.items(), *self.controls.items()]:
            if values.shape[-1] != len(self.genes):
                raise UserError(f"{name!r} has {values.shape[-1]} genes, and {len(self.genes)} are named")

    @cached_property
    def control_means(self) -> dict[str, np.ndarray]:
        """Stratum -> (G,)."""
        return {name: cells.mean(0, dtype=np.float64) for name, cells in self.controls.items()}

    @cached_property
    def effects(self) -> dict[str, np.ndarray]:
        """Condition -> (G,), in the order of names."""
        return {name: self.means[name] - self.control_means[apart(name)[1]] for name in sorted(self.means)}

    @cached_property
    def by_set(self) -> dict[tuple[str, ...], np.ndarray]:
        """Perturbations of a condition -> its effect, mean over strata."""
        found: dict[tuple[str, ...], list[np.ndarray]] = {}
        for name, effect_G in self.effects.items():
            found.setdefault(apart(name)[0], []).append(effect_G)
        return {names: np.mean(effects, 0) for names, effects in found.items()}

    @cached_property
    def perturbations(self) -> tuple[str, ...]:
        """Every perturbation that is in a training condition."""
        return tuple(sorted({name for names in self.by_set for name in names}))

    @cached_property
    def common(self) -> np.ndarray:
        """The mean effect (G,) of the training conditions, each counted once."""
        return np.mean([*self.effects.values()], 0)

    def single(self, name: str) -> np.ndarray | None:
        """The effect (G,) of a perturbation by itself, if it was trained on."""
        return self.by_set.get((name,))

    @cached_property
    def gene_scores(self) -> np.ndarray:
        """Scores of the genes (G, K) on the principal components of the training means, controls among them."""
        table_NG = np.stack([*self.means.values(), *self.control_means.values()]).astype(np.float64)
        u, s, _ = np.linalg.svd((table_NG - table_NG.mean(0)).T, full_matrices=False)
        kept = s > s.max(initial=0.0) * 1e-10
        return (u * s)[:, kept][:, :COMPONENTS]


Effect = Callable[[tuple[str, ...]], tuple[np.ndarray, str]]
"""perturbations -> the effect (G,) that is predicted, and what could not be used, in words, or nothing"""


@final
@attrs.frozen(eq=False)
class Baseline:
    """A fitted baseline: means and cells of any condition whose stratum has controls."""

    name: str
    train: Train
    effect: Effect
    resamples: bool = False
    """whether cells are real controls as they are"""

    def mean(self, condition: str) -> np.ndarray:
        """The predicted mean (G,) of a canonical condition, >= 0.

        Raises:
            UserError: no controls are known for its stratum.
        """
        names, stratum = apart(condition)
        self._controls(stratum, condition)
        return np.maximum(self.train.control_means[stratum] + self.effect(names)[0], 0.0)

    def cells(self, condition: str, count: int, rng: np.random.Generator) -> np.ndarray:
        """Predicted cells (count, G): real controls of the stratum, drawn with replacement where there are too few.

        They are moved onto the predicted mean as `shifted` does it, so that they keep zeros and spread.

        Raises:
            UserError: no controls are known for its stratum.
        """
        controls = self._controls(apart(condition)[1], condition)
        drawn = rng.choice(len(controls), count, replace=self.resamples or count > len(controls))
        cells = np.asarray(controls[drawn], np.float32)
        return cells if self.resamples else shifted(cells, self.mean(condition), rng)

    def told(self, condition: str) -> str:
        """What was not known of a condition, and what was done instead; nothing where all was known."""
        return self.effect(apart(condition)[0])[1]

    def _controls(self, stratum: str, condition: str) -> np.ndarray:
        if stratum not in self.train.controls:
            raise UserError(
                f"{condition!r} cannot be predicted: there are no control cells of {stratum!r}; "
                f"there are some of {sorted(self.train.controls)}"
            )
        return self.train.controls[stratum]


def fit(train: Train) -> tuple[Baseline, ...]:
    """Every baseline, fitted; without training conditions those of the controls alone."""
    untouched = (
        Baseline("control mean", train, _nothing(train)),
        Baseline("control resample", train, _nothing(train), resamples=True),
    )
    if not train.means:
        return untouched
    return (
        *untouched,
        Baseline("perturbed mean", train, _constant(_by_cells(train))),
        Baseline("perturbed mean by condition", train, _constant(train.common)),
        Baseline("matching mean", train, matching(train)),
        Baseline("additive", train, additive(train)),
        Baseline("half additive", train, additive(train, 0.5)),
        Baseline("ridge", train, ridge(train)),
        Baseline("bilinear ridge", train, bilinear(train)),
        Baseline("nearest seen perturbation", train, nearest(train)),
    )


def _nothing(train: Train) -> Effect:
    return _constant(np.zeros(len(train.genes)))


def _constant(effect_G: np.ndarray) -> Effect:
    return lambda names: (effect_G, "")


def _by_cells(train: Train) -> np.ndarray:
    """The mean effect (G,) over the cells of all training conditions."""
    counts = [train.counts[name] for name in train.effects]
    return np.average([*train.effects.values()], axis=0, weights=counts)


def _unseen(names: list[str]) -> str:
    return f"{' and '.join(names)} not seen alone in training; the perturbed mean stands in" if names else ""


def _parts(train: Train, names: tuple[str, ...]) -> tuple[list[np.ndarray], str]:
    """Effects of the perturbations by themselves, the perturbed mean where one was not trained on."""
    found = [train.single(name) for name in names]
    said = _unseen([name for name, effect in zip(names, found, strict=True) if effect is None])
    return [train.common if effect is None else effect for effect in found], said


def matching(train: Train) -> Effect:
    """The mean of the means of the single perturbations (Systema, doi:10.1038/s41587-025-02777-8)."""

    def effect(names: tuple[str, ...]) -> tuple[np.ndarray, str]:
        parts, said = _parts(train, names)
        return (np.mean(parts, 0) if parts else np.zeros(len(train.genes))), said

    return effect


def additive(train: Train, share: float = 1.0) -> Effect:
    """A share of the sum of the effects of the single perturbations.

    Ahlmann-Eltze, Huber and Anders 2025, Nat. Methods 22:1657. A share of a half changes no correlation of effects,
    and halves their size. An unseen perturbation adds nothing; where none was seen the perturbed mean is predicted.
    """

    def effect(names: tuple[str, ...]) -> tuple[np.ndarray, str]:
        known = [part for name in names if (part := train.single(name)) is not None]
        if names and not known:
            return train.common, _unseen([*names])
        lost = [name for name in names if train.single(name) is None]
        said = f"{' and '.join(lost)} not seen alone in training; nothing is added for that" if lost else ""
        return share * np.sum([np.zeros(len(train.genes)), *known], 0), said

    return effect


def ridge(train: Train) -> Effect:
    """Ridge regression of effects on which perturbations a condition has; leaving one out chooses the penalty.

    A perturbation that no training condition has adds nothing to the mean; where all are such, that mean, the
    perturbed mean, is predicted.
    """
    index = {name: i for i, name in enumerate(train.perturbations)}
    hot_NT = np.stack([_hot(apart(name)[0], index) for name in train.effects])
    effect_NG = np.stack([*train.effects.values()])
    middle_T, middle_G = hot_NT.mean(0), effect_NG.mean(0)
    u, s, vt = np.linalg.svd(hot_NT - middle_T, full_matrices=False)
    kept = s > 1e-10
    u, s, vt = u[:, kept], s[kept], vt[kept]
    y_NG = effect_NG - middle_G

    def left_out(penalty: float) -> float:
        shrink = s**2 / (s**2 + penalty)
        leverage = (u**2 * shrink).sum(1) + 1 / len(u)
        off_NG = y_NG - (u * shrink) @ (u.T @ y_NG)
        return float(np.square(off_NG / np.maximum(1 - leverage, 1e-6)[:, None]).sum())

    penalty = min(PENALTIES, key=left_out)
    weight_TG = vt.T @ ((s / (s**2 + penalty))[:, None] * (u.T @ y_NG))

    def effect(names: tuple[str, ...]) -> tuple[np.ndarray, str]:
        lost = [name for name in names if name not in index]
        if names and len(lost) == len(names):
            return train.common, f"{' and '.join(lost)} in no training condition; the perturbed mean stands in"
        said = f"{' and '.join(lost)} in no training condition; nothing is added for that" if lost else ""
        return middle_G + (_hot(names, index) - middle_T) @ weight_TG, said

    return effect


def _hot(names: tuple[str, ...], index: Mapping[str, int]) -> np.ndarray:
    hot_T = np.zeros(len(index))
    hot_T[[index[name] for name in names if name in index]] = 1.0
    return hot_T


def bilinear(train: Train) -> Effect:
    """Bilinear ridge between genes that respond and genes that are perturbed, through their principal components.

    W = (A'A + 0.1 I)^-1 A' (Y - b) B (B'B + 0.1 I)^-1 with scores of all genes A (G, K), of the singly perturbed ones
    B (T, K), their effects Y (G, T) and b the mean of Y; the effect of gene t is A W B_t + b, several add up. It
    reaches genes that were never perturbed. Ahlmann-Eltze, Huber and Anders 2025, Nat. Methods 22:1657.
    """
    at = {gene: i for i, gene in enumerate(train.genes)}
    seen = [names[0] for names in sorted(train.by_set) if len(names) == 1 and names[0] in at]
    a_GK = train.gene_scores

    def fallback(names: tuple[str, ...]) -> tuple[np.ndarray, str]:
        return train.common, "fewer than two measured genes were perturbed by themselves; the perturbed mean stands in"

    if len(seen) < 2 or not a_GK.shape[1]:
        return fallback
    y_GT = np.stack([train.by_set[(name,)] for name in seen], 1)
    b_G = y_GT.mean(1)
    b_TK = a_GK[[at[name] for name in seen]]
    eye_KK = PENALTY * np.eye(a_GK.shape[1])
    middle_KK = np.linalg.solve(a_GK.T @ a_GK + eye_KK, a_GK.T @ (y_GT - b_G[:, None]) @ b_TK)
    w_KK = np.linalg.solve(b_TK.T @ b_TK + eye_KK, middle_KK.T).T

    def effect(names: tuple[str, ...]) -> tuple[np.ndarray, str]:
        known = [name for name in names if name in at]
        lost = [name for name in names if name not in at]
        if names and not known:
            return train.common, f"{' and '.join(lost)} not among the measured genes; the perturbed mean stands in"
        said = f"{' and '.join(lost)} not among the measured genes; nothing is added for that" if lost else ""
        parts = [a_GK @ (w_KK @ a_GK[at[name]]) + b_G for name in known]
        return np.sum([np.zeros(len(train.genes)), *parts], 0), said

    return effect


def nearest(train: Train) -> Effect:
    """The effect of the training condition that shares most with the one asked for.

    The share is the perturbations that both have over those that either has; of equal ones the strongest effect is
    taken. Where nothing is shared, the single perturbation whose gene is most like the one asked for (cosine of scores
    on the principal components of the training means) stands in, else the perturbed mean.
    """
    at = {gene: i for i, gene in enumerate(train.genes)}

    def shared(names: tuple[str, ...], others: tuple[str, ...]) -> float:
        return len({*names} & {*others}) / len({*names} | {*others})

    def effect(names: tuple[str, ...]) -> tuple[np.ndarray, str]:
        best = max(train.by_set, key=lambda k: (shared(names, k), float(np.linalg.norm(train.by_set[k])), k))
        if not names:
            return np.zeros(len(train.genes)), ""
        if shared(names, best) > 0:
            return train.by_set[best], ""
        asked = [name for name in names if name in at]
        known = [k for k in sorted(train.by_set) if len(k) == 1 and k[0] in at]
        if not asked or not known:
            return train.common, f"{' and '.join(names)} not seen in training; the perturbed mean stands in"
        like = max(known, key=lambda k: _alike(train.gene_scores, at[asked[0]], at[k[0]]))
        return train.by_set[like], f"{asked[0]} not seen in training; {like[0]}, the gene most like it, stands in"

    return effect


def _alike(scores_GK: np.ndarray, one: int, other: int) -> float:
    a, b = scores_GK[one], scores_GK[other]
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / scale if scale > 0 else -1.0
