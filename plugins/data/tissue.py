"""A seeded simulator of layered tissue, for runs without a file and for tests that need to know the truth.

n cells, G genes, L latent axes, P axes of space, T cell types, k chosen rows.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, final

import numpy as np

from core.errors import UserError
from core.kinds.data import Data
from core.params import group, knob, params
from plugins.data.anatomy import Anatomy, Section, cut_section, generator, grow, profile
from plugins.data.cells import CellTable
from plugins.data.cut import Cut
from plugins.data.like import Keys, NewCells, read_like
from plugins.data.prepare import Prepare
from plugins.data.sets import CellSource, Sets
from plugins.data.truth import TissueTruth

FINE = 160
"""steps of the lattice along an axis on which cells are drawn by density, in two dimensions"""


@final
@params
class Tissue(Data):
    """A simulated layered tissue with cell types, markers and gradients, which knows its truth.

    A bent sheet of layers with wavy edges, cut into sections that are warped and shifted a little. Types live in a
    layer or throughout; genes mark types, mark layers, run in smooth gradients along or within layers, or keep house.
    Counts are negative binomial, as UMI counts are (Grün, Kester and van Oudenaarden 2014, Nat Methods 11:637), around
    library size times profile: library sizes are log-normal, each section shifts its genes, and technical zeros are
    added. It is not a model of any one organ, and scores on it say nothing of real tissue.
    """

    sections: int = knob(3, "sections of the tissue", ge=1)
    cells: int = knob(1500, "cells of a section", ge=10)
    genes: int = knob(200, "genes", ge=10)
    types: int = knob(8, "cell types; about three in eight are spread through all layers", ge=3)
    dims: int = knob(2, "axes of space", ge=2, le=3)
    depth: float = knob(600.0, "mean counts of a cell before technical zeros", gt=0, unit="counts")
    spread: float = knob(0.35, "standard deviation of the log library size within a section", gt=0)
    dispersion: float = knob(8.0, "negative-binomial size: variance is mean + mean^2 / dispersion", gt=0)
    dropout: float = knob(0.05, "chance that a count is lost and reads 0", ge=0, lt=1)
    seed: int = knob(0, "seed of the tissue, apart from the seed of a run", ge=0)
    sets: Sets = group("how cells are grouped for training")
    cut: Cut = group("how cells are split")
    prepare: Prepare = group("how expression is scaled")

    def open(self) -> CellSource:
        """Simulate.

        Raises:
            UserError: more lattice than memory is asked for, or knobs of the cut that contradict each other.
        """
        if self.sections * self.cells * self.genes > 2**31:
            raise UserError(
                f"data.sections x cells x genes = {self.sections} x {self.cells} x {self.genes} is more than the "
                "simulator holds in memory (2^31 values): lower one of them"
            )
        anatomy, genes, types = grow(self.genes, self.types, self.dims, self.seed)
        cuts = [cut_section(self.genes, self.dims, self.seed, number) for number in range(self.sections)]
        drawn = [self._draw(anatomy, cut, number) for number, cut in enumerate(cuts)]
        q_nL, type_n, counts_nG = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
        section_n = np.repeat(np.arange(self.sections), self.cells)
        digits = len(str(self.sections))
        table = CellTable(
            counts=counts_nG,
            position_nP=np.concatenate([anatomy.place(part[0], cut) for part, cut in zip(drawn, cuts, strict=True)]),
            section_n=section_n,
            sections=tuple(f"section{number + 1:0{digits}d}" for number in range(self.sections)),
            type_n=type_n,
            types=types,
            genes=genes,
            where={name: f"the simulated {name}" for name in ("expression", "position", "section")},
        )
        truth = TissueTruth(
            anatomy=anatomy,
            cuts=cuts,
            q_nL=q_nL,
            section_n=section_n,
            counts_nG=counts_nG,
            depth=self.depth,
            spread=self.spread,
            dispersion=self.dispersion,
            dropout=self.dropout,
            seed=self.seed,
        )
        said = {"source": "simulated layered tissue", "position_unit": "micrometre", "layers": len(anatomy.density_R)}
        return CellSource(
            "tissue",
            table,
            content=table.content(),
            sets=self.sets,
            cut=self.cut,
            prepare=self.prepare,
            said=said,
            truth=truth,
        )

    def like(self, path: Path, preparation: Mapping[str, Any], needs: Collection[str]) -> NewCells:
        """Cells of an AnnData file with the simulated genes; see `plugins.data.like.read_like`."""
        return read_like(path, preparation, needs, Keys())

    def _draw(self, anatomy: Anatomy, section: Section, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Latent place, type and counts of the cells of one section."""
        rng = generator("cells", self.seed, number)
        steps = FINE if self.dims == 2 else round(FINE ** (2 / 3))
        corner_kL = np.stack(np.meshgrid(*[np.arange(steps)] * self.dims, indexing="ij"), -1).reshape(-1, self.dims)
        weight_k = anatomy.density((corner_kL + 0.5) / steps)
        chosen_n = rng.choice(len(corner_kL), self.cells, p=weight_k / weight_k.sum())
        q_nL = (corner_kL[chosen_n] + rng.random((self.cells, self.dims))) / steps
        share_nT = np.cumsum(anatomy.types(q_nL), axis=1)
        type_n = (rng.random((self.cells, 1)) * share_nT[:, -1:] > share_nT[:, :-1]).sum(axis=1)
        library_n = self.depth * section.depth * np.exp(rng.normal(-(self.spread**2) / 2, self.spread, self.cells))
        mean_nG = library_n[:, None] * profile(anatomy.landscape(q_nL, section), anatomy.marker_TG[type_n])
        counts_nG = rng.poisson(rng.gamma(self.dispersion, mean_nG / self.dispersion)).astype(np.float32)
        counts_nG[rng.random(counts_nG.shape) < self.dropout] = 0
        return q_nL, type_n.astype(np.int64), counts_nG
