"""What becomes of each cell in a trained model, from clean input. M cells, G genes, D numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from core.errors import UserError
from core.kinds import Batch
from plugins.systems.perturb.cells import GIVEN, Cells, Given
from plugins.systems.perturb.generate import EXPRESSION, LATENT
from plugins.systems.perturb.network import Responder

if TYPE_CHECKING:
    from plugins.systems.perturb.system import Perturb

LAST = "last"


def layers_of(system: Perturb) -> Mapping[str, tuple[str, ...]]:
    """`last`: after all layers of the network, with the cell's control and perturbations; `latent`: the extractor's."""
    found: dict[str, tuple[str, ...]] = {LAST: (EXPRESSION, *GIVEN)}
    return found if system.extractor is None else found | {LATENT: (EXPRESSION,)}


@torch.no_grad()
def embed(system: Perturb, model: Responder, unit: Batch, layer: str, patch: int) -> np.ndarray:
    """Embeddings (M, D) of the cells of a set; see `core.kinds.System.embed`.

    Genes are the tokens of a cell, so a cell's vector is a mean over them: of `last` over all genes, with every stream
    shown clean at time 1; of `latent` over the genes that the extractor covers, in units of the extractor's deviation,
    0 where it covers none, and of the cell alone: a cell is measured from the mean of the training cells there, not
    from controls, which need not be there.
    """
    cells = Cells.of(unit)
    device = next(model.parameters()).device
    make = _latent if layer == LATENT else _last
    found = []
    for rows in torch.arange(len(cells.real)).split(min(patch, system.cells_per_call or patch)):
        found.append(
            make(system, model, cells.expression[rows].to(device), cells.given.at(rows, device)).float().cpu().numpy()
        )
    return np.concatenate(found)


def _latent(system: Perturb, model: Responder, cell_MG: torch.Tensor, given: Given) -> torch.Tensor:
    mean_MG = torch.from_numpy(model.mean_G).to(cell_MG).expand_as(cell_MG)
    found = model.latents(cell_MG, mean_MG, torch.arange(model.count, device=cell_MG.device))
    return found.z_NKD.sum(1) / found.covered_NK.sum(1, keepdim=True).clamp(min=1)


def _last(system: Perturb, model: Responder, cell_MG: torch.Tensor, given: Given) -> torch.Tensor:
    cells, genes = cell_MG.shape
    device = cell_MG.device
    gene_G = torch.arange(genes, device=device)
    fields = {
        EXPRESSION: model.centred(cell_MG, given.level)[..., None],
        "control": model.centred(given.control, given.level)[..., None],
        "gene": gene_G.expand(cells, genes),
        "perturbation": given.perturbation,
        "told": torch.ones(cells, dtype=torch.bool, device=device),
    }
    if LATENT in system.streams:
        fields[LATENT] = model.latents(cell_MG, given.level, gene_G).z_NKD
    times = {stream: torch.ones(cells, device=device) for stream in system.streams}
    kept: list[torch.Tensor] = []

    def keep(module: torch.nn.Module, given: Any, out: Any) -> None:
        kept.append(out[0] if isinstance(out, tuple) else out)

    handle = _last_layer(model).register_forward_hook(keep)
    try:
        model(fields, times, torch.ones(cells, genes, dtype=torch.bool, device=device), streams=())
    finally:
        handle.remove()
    return kept[-1].mean(1)


def _last_layer(model: Responder) -> torch.nn.Module:
    layers = [*getattr(model.network, "layers", torch.nn.ModuleList()).children()]
    if not layers:
        raise UserError(
            "this backbone has no module `layers`, after which cells could be embedded; take --layer latent"
        )
    return layers[-1]
