"""A seeded simulator of a perturbation screen, for runs without a file and for tests that need to know the truth.

n cells, G genes.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, final

import attrs
import numpy as np

from core.errors import UserError
from core.kinds.data import Data
from core.params import group, knob, params
from plugins.data.screen_cut import ScreenCut
from plugins.data.screen_law import Law, generator, grow
from plugins.data.screen_like import Asked, NewScreen, read_like
from plugins.data.screen_prepare import ScreenPrepare
from plugins.data.screen_read import ScreenKeys
from plugins.data.screen_sets import ScreenSets, ScreenSource, ScreenTruth
from plugins.data.screen_table import ScreenTable, Unit, build_units
from plugins.shared.condition import Labels, Members, spell

CONTROLS = 4
"""control cells, in those of one condition"""


@final
@params
class Screen(Data):
    """A simulated screen of single and double perturbations, which knows its truth.

    Genes move in modules; a perturbation pushes a few modules, raises its own gene, and shares one systematic shift
    with all others, as perturbed cells of real screens do (Viñas Torné et al. 2025, Nat Biotechnol,
    doi:10.1038/s41587-025-02777-8). Doubles add up, but for an interaction module by module. Some cells are missed.
    Counts are negative binomial around library size times rate (Grün, Kester and van Oudenaarden 2014, Nat Methods
    11:637), with technical zeros on top. Scores on it say nothing of real cells.
    """

    applied_by: ClassVar[tuple[str, ...]] = ("asked",)

    genes: int = knob(80, "genes; perturbations are among them", ge=10)
    singles: int = knob(24, "perturbations, each there alone", ge=4)
    doubles: int = knob(36, "pairs of them", ge=0)
    cells: int = knob(80, "cells of a condition in a cell type; of control four times as many", ge=4)
    types: int = knob(1, "cell types, in which effects differ a little", ge=1)
    modules: int = knob(6, "modules of genes that move together", ge=2)
    effect: float = knob(0.7, "size of a perturbation's push on a module", ge=0, unit="log rate")
    shift: float = knob(0.6, "size of the shift that all perturbed cells share; 0: none", ge=0)
    epistasis: float = knob(1.5, "size of the interaction of two perturbations; 0: doubles are additive", ge=0)
    efficacy: float = knob(0.9, "share of cells that a perturbation reaches", gt=0, le=1)
    wobble: float = knob(0.4, "deviation of a cell's own state in each module", ge=0, unit="log rate")
    depth: float = knob(400.0, "mean counts of a control cell before technical zeros", gt=0, unit="counts")
    spread: float = knob(0.35, "deviation of the log library size", gt=0)
    dispersion: float = knob(4.0, "negative-binomial size: variance is mean + mean^2 / dispersion", gt=0)
    dropout: float = knob(0.1, "chance that a count is lost and reads 0", ge=0, lt=1)
    seed: int = knob(0, "seed of the screen, apart from the seed of a run", ge=0)
    asked: Asked = group("what `core sample` is to predict")
    sets: ScreenSets = group("how cells are grouped for training")
    cut: ScreenCut = group("how conditions are split")
    prepare: ScreenPrepare = group("how expression is scaled, and which genes are kept")

    def __attrs_post_init__(self) -> None:
        pairs = self.singles * (self.singles - 1) // 2
        if self.singles > self.genes:
            raise ValueError(
                f"singles = {self.singles} and genes = {self.genes}: perturbations are genes, so no more of them"
            )
        if self.doubles > pairs:
            raise ValueError(
                f"doubles = {self.doubles} and singles = {self.singles}, which make {pairs} pairs: lower doubles"
            )

    def open(self) -> ScreenSource:
        """Simulate.

        Raises:
            UserError: more cells than memory holds, or knobs of the cut that contradict the screen.
        """
        table, law = self._simulate()
        return ScreenSource(
            "screen",
            table,
            content=table.content(),
            sets=self.sets,
            cut=self.cut,
            prepare=self.prepare,
            said={"source": f"simulated with seed {self.seed}"},
            truth=_Truth(law, table, self.seed),
        )

    def like(self, path: Path, preparation: Mapping[str, Any], needs: Collection[str]) -> NewScreen:
        """Conditions to predict from the simulated control cells or those of a file; see `screen_like.read_like`."""
        return read_like(path, preparation, needs, ScreenKeys(), Labels(), self.asked, lambda: self._simulate()[0])

    def ending(self, path: Path) -> str:
        return ".h5ad"

    def conditions(self) -> list[Members]:
        """Control, singles and doubles; each perturbation is in about as many doubles as any other."""
        names = self._names()[1]
        pairs = [*itertools.combinations(names, 2)]
        order = generator("pairs", self.seed).permutation(len(pairs)).tolist()
        used = dict.fromkeys(names, 0)
        doubles: list[Members] = []
        while len(doubles) < self.doubles:
            best = min(order, key=lambda i: (max(used[n] for n in pairs[i]), sum(used[n] for n in pairs[i])))
            order.remove(best)
            doubles.append(tuple(sorted(pairs[best])))
            for name in pairs[best]:
                used[name] += 1
        return [(), *((name,) for name in names), *doubles]

    def _names(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Genes, and those that are perturbed."""
        digits = len(str(self.genes))
        genes = tuple(f"G{i + 1:0{digits}d}" for i in range(self.genes))
        chosen = generator("names", self.seed).permutation(self.genes)[: self.singles]
        return genes, tuple(genes[i] for i in sorted(chosen.tolist()))

    def _simulate(self) -> tuple[ScreenTable, Law]:
        total = ((self.singles + self.doubles) + CONTROLS) * self.cells * self.types
        if total * self.genes > 2**31:
            raise UserError(
                f"the screen would have {total} cells x {self.genes} genes, more than the simulator holds in memory "
                "(2^31 values): lower data.cells, data.doubles or data.genes"
            )
        genes, names = self._names()
        of_cells = {
            name: getattr(self, name) for name in ("wobble", "efficacy", "depth", "spread", "dispersion", "dropout")
        }
        law = grow(
            names=names, genes=genes, modules=self.modules, types=self.types, effect=self.effect, shift=self.shift,
            epistasis=self.epistasis, seed=self.seed, cells=of_cells,
        )  # fmt: skip
        counts: list[np.ndarray] = []
        members_n: list[Members] = []
        level_n: list[tuple[str, ...]] = []
        for number, (members, kind) in enumerate(itertools.product(self.conditions(), range(self.types))):
            size = self.cells if members else CONTROLS * self.cells
            counts.append(law.draw(members, kind, size, generator("cells", self.seed, number)))
            members_n += [members] * size
            level_n += [(_type_name(kind),)] * size
        unit_n, units = build_units(members_n, level_n)
        table = ScreenTable(
            values=np.concatenate(counts),
            genes=genes,
            unit_n=unit_n,
            units=units,
            raw_n=np.array([spell(members) for members in members_n], dtype=object),
            names_n=np.array([f"cell{i}" for i in range(len(members_n))], dtype=object),
            covariates=("cell_type",),
            matched=(True,),
            where="the simulated expression",
            more="simulate several cell types, with --data.types 2 or more",
        )
        return table, law


def _type_name(kind: int) -> str:
    return f"type{kind + 1}"


@final
@attrs.frozen(eq=False)
class _Truth(ScreenTruth):
    law: Law
    table: ScreenTable
    seed: int

    def fresh(self, unit: Unit, cells: int) -> np.ndarray:
        number = self.table.units.index(unit)
        kind = self.table.levels(0).index(unit.levels[0])
        return self.law.draw(unit.members, kind, cells, generator("oracle", self.seed, number))
