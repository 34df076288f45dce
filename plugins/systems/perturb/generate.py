"""From noise to cells: the latent and the expression of each gene along one path of two streams.

M cells, G genes, K genes of a call, P perturbations together, D numbers of a latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from core.kinds import Tree
from plugins.systems.perturb.network import PROBES, Responder
from plugins.systems.perturb.zeros import thresholds, with_zeros

if TYPE_CHECKING:
    from plugins.systems.perturb.system import Perturb

EXPRESSION, LATENT = "expression", "latent"


def noise_like(system: Perturb, control_MG: Tensor, generator: torch.Generator, spread: float) -> Tensor:
    """Where expression starts, (M, G): normal of the training spread, or counts drawn about the control cell's.

    `poisson` is log(1 + n) of n ~ Poisson(expm1(control)): noise that is a cell itself, without effect.
    """
    if system.noise == "gaussian":
        return spread * torch.randn(control_MG.shape, generator=generator).to(control_MG.device)
    if control_MG.is_meta:
        return control_MG
    rate = torch.expm1(control_MG.detach().cpu().double()).clamp(min=0.0)
    return torch.log1p(torch.poisson(rate, generator=generator)).to(control_MG)


def raw(
    system: Perturb,
    model: Responder,
    control_MG: np.ndarray,
    perturbation_MP: np.ndarray,
    generator: torch.Generator,
) -> np.ndarray:
    """Generated expression (M, G) before zeros are restored; the same cells whatever number goes into one call."""
    cells, genes = control_MG.shape
    control = torch.from_numpy(np.ascontiguousarray(control_MG, np.float32))
    start: Tree = {EXPRESSION: noise_like(system, control, generator, model.spread)}
    if LATENT in system.streams:
        drawn = torch.randn(cells, genes, model.width, generator=generator)
        start[LATENT] = system.latent_spread(model) * drawn
    perturbation = torch.from_numpy(np.ascontiguousarray(perturbation_MP, np.int64))
    device = next(model.parameters()).device
    parts = []
    for rows in torch.arange(cells).split(system.cells_per_call):
        given = {m: x[rows].to(device) for m, x in start.items()}
        parts.append(_solve(system, model, given, control[rows].to(device), perturbation[rows].to(device)).cpu())
    return torch.cat(parts).numpy() if parts else np.zeros((0, genes), np.float32)


def _solve(system: Perturb, model: Responder, state: Tree, control_MG: Tensor, perturbation_MP: Tensor) -> Tensor:
    """Expression (M, G) at the end of all stages.

    The stages are pieces of one differential equation in both streams: what does not move stands still as what it is,
    noise before its stage and data after it (Baade et al. 2026, arXiv:2602.11401).
    """
    streams = tuple(m for m in (EXPRESSION, LATENT) if m in state)
    place = dict.fromkeys(streams, 0.0)
    for stage in system.time.stages(streams):

        def field(moving: Tree, at: float, stage: tuple[str, ...] = stage) -> Tree:
            course = {m: system.time.course(m, streams, at) for m in stage}
            times = place | {m: t for m, (t, _) in course.items()}
            found = _velocity(system, model, state | moving, times, control_MG, perturbation_MP, stage)
            return {m: course[m][1] * v for m, v in found.items()}

        steps = system.latent_steps if stage == (LATENT,) else system.sampling
        grid = np.linspace(0.0, 1.0, steps + 1).tolist()
        state = state | system.solver.solve(field, {m: state[m] for m in stage}, grid, paths={})
        place |= dict.fromkeys(stage, 1.0)
    return state[EXPRESSION]


def _velocity(
    system: Perturb,
    model: Responder,
    state: Tree,
    times: Mapping[str, float],
    control_MG: Tensor,
    perturbation_MP: Tensor,
    wanted: tuple[str, ...],
) -> Tree:
    """Velocities of the wanted streams; guided ones lead away from what is predicted without the perturbation.

    v = v_0 + w (v_p - v_0) inside the interval of times (Ho & Salimans 2022, arXiv:2207.12598; Kynkäänniemi et al.
    2024, arXiv:2404.07724), w = 1 outside.
    """
    cells, genes = control_MG.shape
    device = control_MG.device
    fields = {
        EXPRESSION: state[EXPRESSION][..., None],
        "control": control_MG[..., None],
        "gene": torch.arange(genes, device=device).expand(cells, genes),
        "perturbation": perturbation_MP,
        "told": torch.ones(cells, dtype=torch.bool, device=device),
    }
    if LATENT in state:
        fields[LATENT] = state[LATENT]
    at = {m: torch.full((cells,), t, device=device) for m, t in times.items()}
    real = torch.ones(cells, genes, dtype=torch.bool, device=device)
    found, _ = model(fields, at, real, wanted)
    weight = {m: system.guidance_of(m, times[m]) for m in wanted}
    if any(w != 1.0 for w in weight.values()):
        without, _ = model(fields | {"told": torch.zeros_like(fields["told"])}, at, real, wanted)
        found = {m: without[m] + weight[m] * (v - without[m]) for m, v in found.items()}
    return {m: found[m].float()[..., 0] if m == EXPRESSION else found[m].float() for m in wanted}


def calls(system: Perturb) -> int:
    """Evaluations of the field for one cell, each of which is two calls of the network where it is guided."""
    streams = system.streams
    stages = system.time.stages(streams)
    return sum(
        system.solver.calls(system.latent_steps if stage == (LATENT,) else system.sampling) for stage in stages
    )


def calibrated(system: Perturb, model: Responder, seed: int) -> np.ndarray | None:
    """Thresholds (G,) of zeros from generated training cells; None where the output is to stay as it is."""
    if system.zeros == "none" or not model.probes:
        return None
    if seed not in model.thresholds:
        true_MG, control_MG, perturbation_MP = (model.probes[name] for name in PROBES)
        generator = torch.Generator().manual_seed(seed)
        made_MG = raw(system, model, control_MG, perturbation_MP, generator)
        model.thresholds[seed] = thresholds(made_MG, true_MG)
    return model.thresholds[seed]


def finished(raw_MG: np.ndarray, threshold_G: np.ndarray | None) -> np.ndarray:
    """Generated expression with zeros restored; nothing below 0."""
    return with_zeros(raw_MG, threshold_G)
