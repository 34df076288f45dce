"""A backbone with what was fitted to the training cells. M cells, G genes, K chosen genes, D numbers of a latent."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Literal, final

import attrs
import numpy as np
import torch
from torch import Tensor, nn

from core.errors import UserError
from core.kinds import Aux, Tree
from core.kinds.extractor import Extractor, Fitted, Latents
from plugins.systems.perturb.cells import EXPRESSION, GIVEN

Origin = Literal["controls", "mean"]
"""what expression is measured from: control cells of a cell's own stratum, or all training cells"""
CONTROLS: Origin = "controls"
LATENT = "latent/"
"""before the names of an extractor's arrays"""
NEIGHBOURS = "neighbours"
GENES = "perturbed_genes"
MEAN, SPREAD = "mean", "spread"
PROBE = "probe_"
"""before the names of fields of training cells from which zeros are calibrated"""
PROBED = (EXPRESSION, *GIVEN)


OPTIONS = ("streams", "kept", "still")
"""what the networks of responses take beyond the contract of backbones: they save work and change no number"""


@final
@attrs.define
class Spent:
    """What generation cost since it was last set to 0."""

    cells: int = 0
    evaluations: int = 0
    """of the field, counted for each cell"""

    @property
    def each(self) -> float:
        """Evaluations of the field for a cell, in the mean."""
        return self.evaluations / max(1, self.cells)


class Responder(nn.Module):
    """The network, the frozen extractor and the statistics that generation needs.

    Nothing that was fitted is a parameter, and none of it is among the weights: a run keeps it beside them.
    """

    def __init__(self, network: nn.Module, genes: int, width: int, origin: Origin) -> None:
        super().__init__()
        self.network, self.count, self.width, self.origin = network, genes, width, origin
        self.fitted: Fitted | None = None
        self.deviations = False
        """whether the extractor is shown deviations from the origin"""
        self.mean_G: np.ndarray | None = None
        """of training expression"""
        self.spread = 1.0
        """its standard deviation about that"""
        self.probes: dict[str, np.ndarray] = {}
        self.thresholds: dict[object, np.ndarray] = {}
        """calibrated thresholds by how cells are generated, worked out once for these weights"""
        self.spent = Spent()
        takes = inspect.signature(network.forward).parameters
        self.options = tuple(name for name in OPTIONS if name in takes)

    def forward(self, fields: Tree, times: Tree, real_MG: Tensor, **options: Any) -> tuple[Tree, Aux]:
        """The backbone's outputs.

        Args:
            fields: by name.
            times: of each stream.
            real_MG: False on padding.
            options: of `OPTIONS`; a backbone that does not take one computes what it would have saved.
        """
        told = {name: value for name, value in options.items() if name in self.options}
        return self.network(fields, times, real_MG, **told)

    def train(self, mode: bool = True) -> Responder:
        """As every module; weights that go on being trained leave their thresholds behind."""
        if mode:
            self.thresholds.clear()
        return super().train(mode)

    def centred(self, cells_MG: Tensor, level_MG: Tensor) -> Tensor:
        """Expression in units of the flow: about its origin, in units of the spread of all training cells."""
        return (cells_MG - self._origin(level_MG)) / self.spread

    def restored(self, flow_MG: Tensor, level_MG: Tensor) -> Tensor:
        """Expression in its own units again."""
        return flow_MG * self.spread + self._origin(level_MG)

    def _origin(self, level_MG: Tensor) -> Tensor:
        if self.origin == CONTROLS or self.mean_G is None:
            return level_MG
        return torch.from_numpy(self.mean_G).to(level_MG).expand_as(level_MG)

    def latents(self, cells_MG: Tensor, level_MG: Tensor, gene_K: Tensor) -> Latents:
        """Frozen latents of whole cells at chosen genes, of unit deviation; blanks on the meta device.

        A `relative` extractor is shown how cells differ from their origin.
        """
        if cells_MG.is_meta:
            shape = (len(cells_MG), len(gene_K))
            return Latents(cells_MG.new_zeros(*shape, self.width), cells_MG.new_ones(shape, dtype=torch.bool))
        if self.fitted is None:
            raise RuntimeError("the extractor was not fitted; `System.recall` gives a model what `System.fit` found")
        found = self.fitted(cells_MG - self._origin(level_MG) if self.deviations else cells_MG, gene_K)
        return Latents(found.z_NKD / self.fitted.std, found.covered_NK)

    def recall(self, fitted: Mapping[str, np.ndarray], extractor: Extractor | None) -> None:
        """Take up what was fitted.

        Raises:
            UserError: it is of other genes or another extractor.
        """
        if not fitted:
            return
        if fitted[MEAN].shape != (self.count,):
            raise UserError(f"what was fitted is of {fitted[MEAN].size} genes, and the model has {self.count}")
        self.mean_G, self.spread = fitted[MEAN].astype(np.float32), float(fitted[SPREAD][0])
        self.probes = {name: fitted[name] for name in map(PROBE.__add__, PROBED)}
        if extractor is not None:
            kept = {name.removeprefix(LATENT): v for name, v in fitted.items() if name.startswith(LATENT)}
            self.fitted, self.deviations = extractor.restore(kept), extractor.relative
        reading = getattr(getattr(self.network, "genes", None), "reading", None)
        if reading is not None:
            room = reading.neighbours_VK.shape[1] - 1
            reading.set_neighbours(fitted[NEIGHBOURS][:, :room])
        share = getattr(self.network, "set_perturbed_genes", None)
        if share is not None:
            share(fitted[GENES])
