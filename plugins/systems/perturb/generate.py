"""From noise to cells: the latent and the expression of each gene along one path of two streams.

M cells, G genes, K genes of a call, P perturbations together, D numbers of a latent.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, final

import attrs
import numpy as np
import torch
from torch import Tensor

from core.kinds import FlowPath, Tree
from plugins.shared.shift import shifted
from plugins.systems.perturb.cells import EXPRESSION, GIVEN, Given
from plugins.systems.perturb.network import PROBE, Responder
from plugins.systems.perturb.zeros import thresholds

if TYPE_CHECKING:
    from plugins.systems.perturb.system import Perturb

LATENT = "latent"
MOST_PROBES = 256
"""cells from which zeros are calibrated"""
TOKENS = 128_000
"""genes of all cells of a call where nobody says how many cells it has"""


def noise_like(system: Perturb, model: Responder, given: Given, generator: torch.Generator) -> Tensor:
    """Where expression starts, (M, G) in units of the flow: standard normal, or counts drawn about the control cell's.

    `poisson` is log(1 + n) of n ~ Poisson(expm1(control)), whole cells that have not responded.
    """
    control_MG = given.control
    if system.noise == "gaussian" or control_MG.is_meta:
        return torch.randn(control_MG.shape, generator=generator).to(control_MG.device)
    rate = torch.expm1(control_MG.detach().cpu().double()).clamp(min=0.0)
    return model.centred(torch.log1p(torch.poisson(rate, generator=generator)).to(control_MG), given.level)


def velocity_of(path: FlowPath, noisy: Tensor, t_B: Tensor, raw: Tensor) -> Tensor:
    """The velocity that a network's output stands for: what the noisy value says by itself, and what the network adds.

    With noise and data of unit deviation the velocity is, in the mean, (alpha' alpha + sigma' sigma) / (alpha^2 +
    sigma^2) times the noisy value, with a deviation of |alpha' sigma - sigma' alpha| / sqrt(alpha^2 + sigma^2), which
    is what the output is scaled by (as the preconditioning of Karras et al. 2022, arXiv:2206.00364, is for data).
    """
    over = t_B.shape + (1,) * (noisy.dim() - t_B.dim())
    alpha, sigma = (share.reshape(over) for share in path.shares(t_B))
    d_alpha, d_sigma = (rate.reshape(over) for rate in path.rates(t_B))
    norm = alpha**2 + sigma**2
    return (d_alpha * alpha + d_sigma * sigma) / norm * noisy + (d_alpha * sigma - d_sigma * alpha) / norm.sqrt() * raw


def data_of(path: FlowPath, noisy: Tensor, t_B: Tensor, raw: Tensor) -> Tensor:
    """The data that the same output stands for, finite at both ends, as x_t + (1 - t) v on the straight path.

    (alpha x + sigma sqrt(alpha^2 + sigma^2) raw) / (alpha^2 + sigma^2), which is `path.convert` of `velocity_of`, and
    holds where a path stands still too.
    """
    over = t_B.shape + (1,) * (noisy.dim() - t_B.dim())
    alpha, sigma = (share.reshape(over) for share in path.shares(t_B))
    norm = alpha**2 + sigma**2
    return (alpha * noisy + sigma * norm.sqrt() * raw) / norm


@final
@attrs.frozen
class Clocked(FlowPath):
    """A stream's path by the clock of its stage."""

    path: FlowPath
    course: Callable[[Any], tuple[Any, Any]]
    """time of the stage to time of the stream, and how fast that goes"""

    def alpha(self, t: Tensor) -> Tensor:
        return self.path.alpha(self.course(t)[0])

    def sigma(self, t: Tensor) -> Tensor:
        return self.path.sigma(self.course(t)[0])

    def rates(self, t: Tensor) -> tuple[Tensor, Tensor]:
        at, speed = self.course(t)
        d_alpha, d_sigma = self.path.rates(at)
        return speed * d_alpha, speed * d_sigma


def raw(
    system: Perturb,
    model: Responder,
    given: Given,
    generator: torch.Generator,
    latent_MGD: Tensor | None = None,
) -> np.ndarray:
    """Generated expression (M, G) before zeros are restored; the same cells whatever number goes into one call.

    Args:
        system: what is sampled by what.
        model: in evaluation mode.
        given: control cells, their levels, and perturbations.
        generator: source of the noise; that of expression is the same with latents that are given.
        latent_MGD: latents that are given, as `Responder.latents` finds them in cells, in place of generated ones: what
            the second stage makes of true latents tells its errors from those of the first.

    Raises:
        ValueError: latents of another shape, or for a model that has none.
    """
    cells, genes = given.control.shape
    start: Tree = {EXPRESSION: noise_like(system, model, given, generator)}
    if latent_MGD is not None:
        wanted = (cells, genes, model.width) if LATENT in system.streams else None
        if latent_MGD.shape != wanted:
            raise ValueError(f"latents {tuple(latent_MGD.shape)} were given to a model that takes {wanted or 'none'}")
        start[LATENT] = latent_MGD
    elif LATENT in system.streams:
        start[LATENT] = torch.randn(cells, genes, model.width, generator=generator)
    device = next(model.parameters()).device
    parts = []
    for rows in torch.arange(cells).split(system.cells_per_call or max(1, TOKENS // genes)):
        state = {m: x[rows].to(device) for m, x in start.items()}
        parts.append(_solve(system, model, state, given.at(rows, device), taught=latent_MGD is not None).cpu())
    return model.restored(torch.cat(parts), given.level).numpy() if parts else np.zeros((0, genes), np.float32)


def _solve(system: Perturb, model: Responder, state: Tree, given: Given, *, taught: bool) -> Tensor:
    """Expression (M, G) at the end of all stages; where latents are `taught` they are data from the start.

    The stages are pieces of one differential equation in both streams: what does not move stands still as what it is,
    noise before its stage and data after it (Baade et al. 2026, arXiv:2602.11401).
    """
    streams = tuple(m for m in (EXPRESSION, LATENT) if m in state)
    cells, genes = given.control.shape
    device = given.control.device
    fields = {
        "control": model.centred(given.control, given.level)[..., None],
        "gene": torch.arange(genes, device=device).expand(cells, genes),
        "perturbation": given.perturbation,
        "told": torch.ones(cells, dtype=torch.bool, device=device),
    }
    model.spent.cells += cells
    done = (LATENT,) if taught else ()
    place = {m: float(m in done) for m in streams}
    for whole in system.time.stages(streams):
        stage = tuple(m for m in whole if m not in done)
        if not stage:
            continue
        still = {m: (state[m], place[m]) for m in streams if m not in stage}
        alone = stage == (LATENT,)
        steps = system.latent_steps if alone else system.sampling
        grid = grid_of(steps, system.latent_shift if alone else system.sampling_shift)
        field = _Stage(system=system, model=model, fields=fields, streams=streams, still=still)
        paths = {m: Clocked(system.path, partial(system.time.course, m, streams)) for m in stage}
        state = state | system.solver.solve(field.moving, {m: state[m] for m in stage}, grid, paths=paths)
        place |= dict.fromkeys(stage, 1.0)
    return state[EXPRESSION]


def grid_of(steps: int, shift: float) -> list[float]:
    """Times of a stage's steps from 0 to 1, even ones shifted.

    A shift below 1 puts more of them near the noise, as Baade et al. 2026 (arXiv:2602.11401) do for their first stage.
    """
    return [shifted(t, shift) for t in np.linspace(0.0, 1.0, steps + 1).tolist()]


@final
@attrs.frozen(kw_only=True, eq=False)
class _Stage:
    """The field of one stage. What neither its streams nor the clock change is made once."""

    system: Perturb
    model: Responder
    fields: dict[str, Tensor]
    streams: tuple[str, ...]
    still: Mapping[str, tuple[Tensor, float]]
    """streams that stand still, and the time at which they do"""
    kept: dict[str, Any] = attrs.field(factory=dict, init=False)

    def moving(self, moving: Tree, at: float) -> Tree:
        """How fast the moving streams go, by the clock of their stage; the others stand still at a time of their own.

        Guided ones lead away from what is predicted without the perturbation: v = v_0 + w (v_p - v_0) inside the
        interval of times (Ho & Salimans 2022, arXiv:2207.12598; Kynkäänniemi et al. 2024, arXiv:2404.07724), w = 1
        outside.
        """
        course = {m: self.system.time.course(m, self.streams, at) for m in moving}
        state = {m: x for m, (x, _) in self.still.items()} | moving
        times = {m: t for m, (_, t) in self.still.items()} | {m: t for m, (t, _) in course.items()}
        wanted = tuple(moving)
        told_M = self.fields["told"]
        self.model.spent.evaluations += len(told_M)
        shown = {m: x[..., None] if m == EXPRESSION else x for m, x in state.items()}
        at_M = {m: torch.full((len(told_M),), t, device=told_M.device) for m, t in times.items()}
        found = self._asked(shown, at_M, wanted, told_M)
        weight = {m: self.system.guidance_of(m, times[m]) for m in wanted}
        if any(w != 1.0 for w in weight.values()):
            without = self._asked(shown, at_M, wanted, torch.zeros_like(told_M))
            found = {m: without[m] + weight[m] * (v - without[m]) for m, v in found.items()}
        clean = {m: found[m].float()[..., 0] if m == EXPRESSION else found[m].float() for m in wanted}
        return {m: course[m][1] * velocity_of(self.system.path, state[m], at_M[m], v) for m, v in clean.items()}

    def _asked(self, shown: Tree, at_M: Tree, wanted: tuple[str, ...], told_M: Tensor) -> Tree:
        real_MG = torch.ones_like(self.fields["gene"], dtype=torch.bool)
        fields = self.fields | shown | {"told": told_M}
        found, _ = self.model(fields, at_M, real_MG, streams=wanted, kept=self.kept, still=tuple(self.still))
        return {m: found[m] for m in wanted}


def calibrated(system: Perturb, model: Responder, seed: int, given: Given) -> np.ndarray | None:
    """Thresholds of zeros, (G,) or one row a cell of `given`; None where the output is to stay as it is.

    Of generated training cells, the same for whatever is asked; or, where `zeros` is `controls`, of control cells that
    are generated from those of `given`, for each stratum by itself, whose level tells it.
    """
    if system.zeros == "controls":
        return _of_controls(system, model, seed, given)
    if system.zeros == "none" or not model.probes:
        return None
    how = (seed, system)
    if how not in model.thresholds:
        given = Given(**{name: torch.from_numpy(model.probes[PROBE + name]) for name in GIVEN})
        made_MG = raw(system, model, given, torch.Generator().manual_seed(seed))
        model.thresholds[how] = thresholds(made_MG, model.probes[PROBE + EXPRESSION])
    return model.thresholds[how]


def _of_controls(system: Perturb, model: Responder, seed: int, given: Given) -> np.ndarray:
    """Thresholds (M, G) by which what is generated without a perturbation has the given control cells' zeros."""
    untouched = attrs.evolve(given, perturbation=torch.zeros_like(given.perturbation))
    found_MG = np.zeros(tuple(given.control.shape), np.float32)
    _, stratum_M = torch.unique(given.level.cpu(), dim=0, return_inverse=True)
    for stratum in range(int(stratum_M.max()) + 1 if len(stratum_M) else 0):
        rows = (stratum_M == stratum).nonzero()[:, 0]
        some = rows[:MOST_PROBES]
        asked = untouched.at(some, given.control.device)
        made_mG = raw(system, model, asked, torch.Generator().manual_seed(seed))
        found_MG[rows.numpy()] = thresholds(made_mG, asked.control.cpu().numpy())
    return found_MG
