"""The layered tissue that `tissue` draws from: its shape, its layers, what types live where and what genes they show.

n cells or places, G genes, L latent axes (depth, then lateral; each in [0, 1]), P = L axes of space, R layers, T types.

All sections share one anatomy; a section bends it a little and shifts its genes a little.
"""

from __future__ import annotations

from typing import final

import attrs
import numpy as np

from core.train.streams import stream_seed

THICK, WIDE, LONG, BEND = 1200.0, 2600.0, 800.0, 2400.0
"""micrometre: depth of the tissue, its arc at mid depth, its extent along the third axis, its radius of curvature"""
EDGE = 0.015
"""width of a layer's edge as a share of the depth"""
SHARES = {"marker": 0.3, "layer": 0.25, "gradient": 0.3}
"""of the genes; the others are housekeeping genes, the same everywhere but for noise"""


def generator(purpose: str, seed: int, *index: int) -> np.random.Generator:
    """A stream of its own for each purpose, so that more sections or cells leave the anatomy as it was."""
    return np.random.default_rng(stream_seed(f"tissue:{purpose}", seed, *index))


@final
@attrs.frozen(kw_only=True, eq=False)
class Section:
    """What is particular to one section."""

    warp_KP: np.ndarray
    """micrometre: amplitudes of K smooth bends"""
    wave_KL: np.ndarray
    phase_K: np.ndarray
    shift_P: np.ndarray
    batch_G: np.ndarray
    """log shift of each gene"""
    depth: float
    """mean library size relative to the anatomy's"""


@final
@attrs.frozen(kw_only=True, eq=False)
class Anatomy:
    """Truth shared by all sections."""

    edge_R: np.ndarray
    """mean depth of the R - 1 edges between layers"""
    ripple_RL: np.ndarray
    phase_R: np.ndarray
    density_R: np.ndarray
    mix_RT: np.ndarray
    """share of each type in each layer; rows sum to 1"""
    base_G: np.ndarray
    marker_TG: np.ndarray
    layer_RG: np.ndarray
    slope_G: np.ndarray
    """amplitude of a gene's spatial gradient"""
    wave_LG: np.ndarray
    phase_G: np.ndarray
    within_RG: np.ndarray
    """in which layers a gene's gradient shows"""

    def members(self, q_nL: np.ndarray) -> np.ndarray:
        """Share (n, R) of each layer at a place: 1 inside, blending over its edges."""
        lateral_nL = q_nL[:, 1:]
        # A common swell that dies out at both surfaces, and a ripple an edge that is too small to let edges cross.
        swell_n = 0.05 * np.sin(np.pi * (0.3 + 1.4 * lateral_nL.sum(axis=1)))
        ripple_nR = np.sin(2 * np.pi * lateral_nL @ self.ripple_RL[:, 1:].T + self.phase_R)
        gap = np.diff(np.concatenate([[0.0], self.edge_R, [1.0]])).min()
        line_nR = self.edge_R + 4 * self.edge_R * (1 - self.edge_R) * swell_n[:, None] + 0.12 * gap * ripple_nR
        below_nR = 1 / (1 + np.exp((line_nR - q_nL[:, :1]) / EDGE))
        ones, zeros = np.ones((len(q_nL), 1)), np.zeros((len(q_nL), 1))
        return np.concatenate([ones, below_nR], axis=1) - np.concatenate([below_nR, zeros], axis=1)

    def types(self, q_nL: np.ndarray) -> np.ndarray:
        """Probability (n, T) of each cell type at a place."""
        return self.members(q_nL) @ self.mix_RT

    def density(self, q_nL: np.ndarray) -> np.ndarray:
        """Cells per unit of latent volume (n,), up to a factor."""
        return self.members(q_nL) @ self.density_R

    def landscape(self, q_nL: np.ndarray, section: Section) -> np.ndarray:
        """Log expression (n, G) that place and section give, whatever the cell type."""
        member_nR = self.members(q_nL)
        wave_nG = np.cos(2 * np.pi * q_nL @ self.wave_LG + self.phase_G)
        gradient_nG = self.slope_G * wave_nG * (member_nR @ self.within_RG)
        return self.base_G + section.batch_G + member_nR @ self.layer_RG + gradient_nG

    def place(self, q_nL: np.ndarray, section: Section) -> np.ndarray:
        """Position (n, P) in micrometre: a bent sheet, warped as the section is."""
        angle_n = (q_nL[:, 1] - 0.5) * WIDE / BEND
        radius_n = BEND + THICK * (0.5 - q_nL[:, 0])
        axes = [radius_n * np.sin(angle_n), radius_n * np.cos(angle_n) - BEND]
        if q_nL.shape[1] == 3:
            axes.append((q_nL[:, 2] - 0.5) * LONG)
        bend_nK = np.sin(2 * np.pi * q_nL @ section.wave_KL.T + section.phase_K)
        return np.stack(axes, axis=1) + bend_nK @ section.warp_KP + section.shift_P


def profile(landscape_nG: np.ndarray, marker_nG: np.ndarray) -> np.ndarray:
    """Share (n, G) of each gene in a cell's counts."""
    weight_nG = np.exp(landscape_nG + marker_nG)
    return weight_nG / weight_nG.sum(axis=1, keepdims=True)


def grow(genes: int, types: int, dims: int, seed: int) -> tuple[Anatomy, tuple[str, ...], tuple[str, ...]]:
    """An anatomy, the names of its genes and of its cell types.

    About five types in eight keep to a layer of their own; the others are spread through all of them.
    """
    rng = generator("anatomy", seed)
    spread = max(1, round(types * 3 / 8))
    homed = types - spread
    layers = max(2, homed)
    width_R = rng.dirichlet(np.full(layers, 30.0))
    mix_RT = np.zeros((layers, types))
    for home in range(homed):
        near_R = np.abs(np.arange(layers) - home)
        mix_RT[:, home] = np.where(near_R == 0, rng.uniform(1.6, 2.6), np.where(near_R == 1, 0.15, 0.01))
    mix_RT[:, homed:] = rng.uniform(0.1, 0.5, (layers, spread))
    kinds = [kind for kind, share in SHARES.items() for _ in range(round(share * genes))]
    kinds += ["housekeeping"] * (genes - len(kinds))
    is_G = {kind: np.array([k == kind for k in kinds]) for kind in (*SHARES, "housekeeping")}
    marker_TG = rng.normal(0, 0.15, (types, genes))
    marker_TG[rng.integers(types, size=genes), np.arange(genes)] += is_G["marker"] * rng.uniform(1.0, 2.4, genes)
    layer_RG = np.zeros((layers, genes))
    layer_RG[rng.integers(layers, size=genes), np.arange(genes)] = is_G["layer"] * rng.uniform(0.8, 2.0, genes)
    # Half of the gradients run through the tissue, half show in one layer only.
    within_RG = np.ones((layers, genes))
    own_G = rng.random(genes) < 0.5
    within_RG[:, own_G] = np.eye(layers)[:, rng.integers(layers, size=int(own_G.sum()))]
    wave_LG = rng.uniform(0.2, 0.6, (dims, genes)) * rng.choice([-1, 1], (dims, genes))
    wave_LG[0] *= 0.5
    anatomy = Anatomy(
        edge_R=np.cumsum(width_R)[:-1],
        ripple_RL=rng.uniform(0.5, 1.5, (layers - 1, dims)),
        phase_R=rng.uniform(0, 2 * np.pi, layers - 1),
        density_R=rng.uniform(0.6, 1.2, layers),
        mix_RT=mix_RT / mix_RT.sum(axis=1, keepdims=True),
        base_G=rng.normal(0, 1.0, genes),
        marker_TG=marker_TG,
        layer_RG=layer_RG,
        slope_G=is_G["gradient"] * rng.uniform(0.8, 1.8, genes),
        wave_LG=wave_LG,
        phase_G=rng.uniform(0, 2 * np.pi, genes),
        within_RG=within_RG,
    )
    names = tuple(f"{kind}{number:0{len(str(genes))}d}" for number, kind in enumerate(kinds))
    homes = [f"layer {home + 1}" for home in range(homed)]
    return anatomy, names, (*homes, *(f"spread {number + 1}" for number in range(spread)))


def cut_section(genes: int, dims: int, seed: int, number: int) -> Section:
    """The particulars of one section."""
    rng = generator("section", seed, number)
    modes = 4
    return Section(
        warp_KP=rng.normal(0, 45.0, (modes, dims)),
        wave_KL=rng.uniform(0.1, 0.6, (modes, dims)) * rng.choice([-1, 1], (modes, dims)),
        phase_K=rng.uniform(0, 2 * np.pi, modes),
        shift_P=rng.normal(0, 100.0, dims),
        batch_G=rng.normal(0, 0.12, genes),
        depth=float(np.exp(rng.normal(0, 0.15))),
    )
