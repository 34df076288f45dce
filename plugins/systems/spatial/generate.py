"""Sections of any size from a trained network: positions, expression, or both.

N cells, P axes of space, K draws, A anchors.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import nn

from core.kinds import Batch, Tree
from core.train.streams import Streams
from plugins.systems.spatial.geometry import rotation

MODES = {"expr_to_pos": ("expression",), "pos_to_expr": ("position",), "joint": ()}
"""name -> what is given"""
MADE = {"expr_to_pos": ("position",), "pos_to_expr": ("expression",), "joint": ("expression", "position")}
OVERLAP = 0.25
"""share of a patch that all patches of a section have in common, by which their positions are joined"""


class Sampler(Protocol):
    """What draws from the network."""

    def sample(self, model: nn.Module, batch: Batch, wanted: tuple[str, ...], generator: torch.Generator) -> Tree: ...

    def expect(self, model: nn.Module, batch: Batch, wanted: tuple[str, ...], generator: torch.Generator) -> Tree: ...


@torch.no_grad()
def generate(
    system: Sampler,
    model: nn.Module,
    unit: Batch,
    mode: str,
    streams: Streams,
    *,
    index: int,
    draws: int,
    patch: int,
) -> dict[str, np.ndarray]:
    """Draws (K, N, ...) of what a mode makes; see `core.kinds.System.generate`.

    A section of more than `patch` cells is made in random subsets of its cells, as training sets are random subsets of
    theirs. To place cells, each subset holds the same anchors (a quarter of the patch): the first subset sets the
    frame, each later one is turned or mirrored and shifted, never scaled, to fit its anchors onto those (Schönemann
    1966), and an anchor stands at the mean of its places. Expression needs no joining. Cells made jointly from nothing
    have no anchors in common: beyond a patch they are sets of their own, each about the same centre.

    Draws of positions are turned or mirrored onto the first draw, as a loss of distances leaves the frame of each open,
    and are centred.
    """
    made: dict[str, list[np.ndarray]] = {m: [] for m in MADE[mode]}
    cells = unit.real_BN.shape[1]
    parts, anchors = patches(cells, patch, streams.generator("sample:patch", index), joined=mode == "expr_to_pos")
    for draw in range(max(1, draws)):
        found: dict[str, list[np.ndarray]] = {m: [] for m in made}
        for number, rows in enumerate(parts):
            noise = streams.generator(f"sample:{mode}", index, draw, number)
            make = system.sample if draws else system.expect
            values = make(model, some(unit, rows).to(_device(model)), MADE[mode], noise)
            for m in made:
                found[m].append(values[m][0].cpu().numpy())
        for m, values_of in found.items():
            whole = _joined(parts, values_of, anchors) if m == "position" else _gathered(parts, values_of)
            made[m].append(whole)
    if "position" in made:
        made["position"] = agreed(made["position"])
    return {m: np.stack(values) for m, values in made.items()}


def patches(cells: int, size: int, generator: torch.Generator, *, joined: bool) -> tuple[list[np.ndarray], int]:
    """Random subsets of at most `size` of so many cells that cover them all, of even size, each in rising order.

    Returns:
        The subsets, and how many cells (A) all of them have in common: the first A of each, none unless `joined`.
    """
    if cells <= size:
        return [np.arange(cells)], 0
    order_N = torch.randperm(cells, generator=generator).numpy()
    anchors = max(4, round(OVERLAP * size)) if joined else 0
    common, rest = np.sort(order_N[:anchors]), order_N[anchors:]
    count = -(-len(rest) // max(1, size - anchors))
    return [np.concatenate([common, np.sort(part)]) for part in np.array_split(rest, count)], anchors


def some(unit: Batch, rows: np.ndarray) -> Batch:
    """Some cells of a set."""
    index = torch.from_numpy(rows)
    return Batch({k: v[:, index] for k, v in unit.fields.items()}, unit.real_BN[:, index], unit.units)


def agreed(draws: list[np.ndarray]) -> list[np.ndarray]:
    """Placements (N, P) each centred, and turned or mirrored onto the first of them."""
    draws = [x_NP - x_NP.mean(0) for x_NP in draws]
    return [draws[0], *((x_NP @ rotation(x_NP, draws[0])).astype(x_NP.dtype) for x_NP in draws[1:])]


def _joined(parts: list[np.ndarray], values: list[np.ndarray], anchors: int) -> np.ndarray:
    """Placements of overlapping subsets as one, in the frame of the first."""
    fitted = [values[0]]
    first_AP = values[0][:anchors]
    for x_NP in values[1:]:
        if anchors:
            middle_P, onto_P = x_NP[:anchors].mean(0), first_AP.mean(0)
            turn_PP = rotation(x_NP[:anchors] - middle_P, first_AP - onto_P)
            x_NP = ((x_NP - middle_P) @ turn_PP + onto_P).astype(np.float32)
        fitted.append(x_NP)
    whole_NP = _gathered(parts, fitted)
    if anchors:
        whole_NP[parts[0][:anchors]] = np.mean([x_NP[:anchors] for x_NP in fitted], axis=0)
    return whole_NP


def _gathered(parts: list[np.ndarray], values: list[np.ndarray]) -> np.ndarray:
    """Values of subsets in the order of the cells."""
    whole_NF = np.empty((max(int(rows.max()) for rows in parts) + 1, values[0].shape[1]), np.float32)
    for rows, value in zip(parts, values, strict=True):
        whole_NF[rows] = value
    return whole_NF


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
