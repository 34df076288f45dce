"""The law that `screen` draws cells from: states, modules of genes, effects of perturbations alone and together.

n cells, G genes, K modules, T cell types, S perturbations.
"""

from __future__ import annotations

from typing import final

import attrs
import numpy as np

from core.train.streams import stream_seed
from plugins.shared.condition import Members


def generator(purpose: str, seed: int, *index: int) -> np.random.Generator:
    """A stream of its own for each purpose, so that more cells or conditions leave the others as they were."""
    return np.random.default_rng(stream_seed(f"screen:{purpose}", seed, *index))


@final
@attrs.frozen(kw_only=True, eq=False)
class Law:
    """Truth shared by all cells.

    The log rate of gene g in a cell of type t under the perturbations A is

        base_g + type_tg + loading_g . (state + efficacy (sum_A move_A (1 + context_t) + epistasis sum_{A<B} pair_AB))
        + efficacy (shift_g + sum_A own_Ag)

    with the state of a cell normal in K modules and its efficacy 1, or 0 for a cell that the perturbation missed.
    `pair_AB` is the product of the two moves, module by module, bounded: where both push one module, the double falls
    short of the sum (buffering) or goes beyond it (synergy), by a sign of the module. So effects live in K dimensions,
    and what two perturbations do together follows from what each does.
    """

    base_G: np.ndarray
    type_TG: np.ndarray
    loading_GK: np.ndarray
    move_SK: np.ndarray
    context_TK: np.ndarray
    sign_K: np.ndarray
    shift_G: np.ndarray
    own_SG: np.ndarray
    epistasis: float
    wobble: float
    efficacy: float
    depth: float
    spread: float
    dispersion: float
    dropout: float
    place: dict[str, int]
    """of a perturbation among S"""

    def effect(self, members: Members, kind: int) -> np.ndarray:
        """Change (G,) of the log rate in a cell that a condition reached."""
        if not members:
            return np.zeros_like(self.base_G)
        codes = [self.place[member] for member in members]
        moves_MK = self.move_SK[codes] * (1 + self.context_TK[kind])
        joint_K = moves_MK.sum(axis=0)
        for i in range(len(codes)):
            for j in range(i):
                joint_K = joint_K + self.epistasis * self.sign_K * np.tanh(moves_MK[i] * moves_MK[j])
        return self.loading_GK @ joint_K + self.shift_G + self.own_SG[codes].sum(axis=0)

    def draw(self, members: Members, kind: int, cells: int, rng: np.random.Generator) -> np.ndarray:
        """Counts (n, G) of new cells, float32."""
        reached_n = rng.random(cells) < self.efficacy
        state_nK = self.wobble * rng.normal(size=(cells, self.loading_GK.shape[1]))
        log_nG = self.base_G + self.type_TG[kind] + state_nK @ self.loading_GK.T
        log_nG += reached_n[:, None] * self.effect(members, kind)
        rate_nG = np.exp(log_nG)
        library_n = self.depth * np.exp(rng.normal(-(self.spread**2) / 2, self.spread, cells))
        # Not divided by a cell's own sum: a strong effect changes the total, as it does in cells.
        mean_nG = library_n[:, None] * rate_nG / np.exp(self.base_G).sum()
        counts_nG = rng.poisson(rng.gamma(self.dispersion, mean_nG / self.dispersion)).astype(np.float32)
        counts_nG[rng.random(counts_nG.shape) < self.dropout] = 0
        return counts_nG


def grow(
    *,
    names: tuple[str, ...],
    genes: tuple[str, ...],
    modules: int,
    types: int,
    effect: float,
    shift: float,
    epistasis: float,
    seed: int,
    cells: dict[str, float],
) -> Law:
    """A law of its own for each seed.

    Args:
        names: perturbations; each is a gene of the panel, which it raises.
        cells: what concerns single cells: `wobble`, `efficacy`, `depth`, `spread`, `dispersion`, `dropout`.
    """
    count = len(genes)
    rng = generator("genes", seed)
    base_G = rng.normal(0.0, 1.0, count)
    # Each gene belongs to one module, and a little to another.
    loading_GK = np.zeros((count, modules))
    home_G = rng.integers(modules, size=count)
    loading_GK[np.arange(count), home_G] = rng.choice([-1.0, 1.0], count, p=[0.3, 0.7]) * rng.uniform(0.5, 1.0, count)
    loading_GK[np.arange(count), rng.integers(modules, size=count)] += rng.normal(0, 0.15, count)
    rng = generator("shift", seed)
    shift_G = shift * (loading_GK @ rng.normal(0, 0.5, modules) + (rng.random(count) < 0.2) * rng.normal(0, 0.7, count))
    rng = generator("moves", seed)
    move_SK = effect * rng.normal(size=(len(names), modules)) * (rng.random((len(names), modules)) < 2.5 / modules)
    own_SG = np.zeros((len(names), count))
    own_SG[np.arange(len(names)), [genes.index(name) for name in names]] = 1.5 * effect
    rng = generator("types", seed)
    type_TG = 0.6 * rng.normal(size=(types, count))
    context_TK = 0.3 * rng.normal(size=(types, modules))
    type_TG[0], context_TK[0] = 0.0, 0.0
    return Law(
        base_G=base_G,
        type_TG=type_TG,
        loading_GK=loading_GK,
        move_SK=move_SK,
        context_TK=context_TK,
        sign_K=generator("signs", seed).choice([-1.0, 1.0], modules, p=[0.7, 0.3]),
        shift_G=shift_G,
        own_SG=own_SG,
        epistasis=epistasis,
        place={name: code for code, name in enumerate(names)},
        **cells,
    )
