"""Figures of one test unit beyond where its cells are placed: errors by type, the way of a sample, depth, experts.

N cells, P axes of space, S states, T types, E experts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from core.kinds.system import Picture
from core.score import MODEL
from plugins.systems.spatial.drawing import OWN, PLAIN, WIDTH, canvas, draw_maps, frame, planes_of, ratio, scatter
from plugins.systems.spatial.geometry import rotation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLEAN = (
    "The network is shown the true cells without noise. Each panel has a colour scale of its own, which leaves out the "
    "2 % at either end."
)
MAPS = {
    "attention": (
        "Which cells attention reads",
        "attention received (1: even share)",
        "How much attention a cell receives from all cells of the section, as a mean over heads: 1 where it gets an "
        f"even share, 2 where twice that. {CLEAN} Attention is no measure of what the output owes to a cell.",
    ),
    "gate": (
        "Where gates are open",
        "mean score of the gate",
        "What a gate lets through of what a cell has read, as a mean over heads and channels: 1 lets all pass, 0 "
        f"nothing. {CLEAN}",
    ),
}
"""kind of map -> title, label of its colours, caption"""
RULE = "nearest 15 cells"
MOST_TYPES = 16
Align = Callable[[np.ndarray, np.ndarray], np.ndarray]
Arrays = Mapping[str, np.ndarray]


def details(arrays: Arrays, unit: str, align: Align) -> list[Picture]:
    """What the arrays of a unit allow (see `plugins.systems.spatial.pictures`), nothing drawn yet."""
    found = []
    typed = bool((arrays.get(f"type/{unit}", np.array([-1])) >= 0).any())
    if typed:
        found += _by_type(arrays, unit, align)
    if f"way/{unit}" in arrays:
        found.append(_way(arrays, unit))
    true_NP = arrays[f"true/{unit}"].astype(float)
    if len(planes_of(true_NP)) > 1 and f"placed/{MODEL}/{unit}" in arrays:
        found.append(_space(arrays, unit, align))
    shares = {
        key.removeprefix(f"experts/{unit}/"): value
        for key, value in arrays.items()
        if key.startswith(f"experts/{unit}/")
    }
    if shares and typed:
        found.append(_experts(arrays, unit, shares))
    return found


def maps(arrays: Arrays) -> list[Picture]:
    """Attention and gates over the section that was mapped, each where it is there."""
    found = []
    for unit in [key.removeprefix("seen/") for key in arrays if key.startswith("seen/")]:
        true_NP = arrays[f"seen/{unit}"].astype(float)
        for name, (title, label, caption) in MAPS.items():
            panels = {
                key.removeprefix(f"{name}/{unit}/"): value
                for key, value in arrays.items()
                if key.startswith(f"{name}/{unit}/")
            }
            if panels:
                draw = functools.partial(draw_maps, true_NP, panels, label)
                about = f"{caption} Shown: {len(true_NP)} cells of {unit} at their true places."
                found.append(Picture(name=f"{name}_map", title=f"{title} in {unit}", caption=about, draw=draw))
    return found


def _types(arrays: Arrays, unit: str) -> list[tuple[str, np.ndarray]]:
    """Names of the most frequent types, most frequent first, and which cells they have (N,)."""
    names, code_N = arrays["cell_types"], arrays[f"type/{unit}"]
    count_T = np.bincount(code_N[code_N >= 0], minlength=len(names))
    order = [int(t) for t in np.argsort(-count_T, kind="stable")[:MOST_TYPES] if count_T[t]]
    return [(f"{names[t]} ({count_T[t]})", code_N == t) for t in order]


def _by_type(arrays: Arrays, unit: str, align: Align) -> list[Picture]:
    true_NP = arrays[f"true/{unit}"].astype(float)
    spread = float(np.sqrt(np.square(true_NP - true_NP.mean(0)).sum(1).mean()))
    types, panels = _types(arrays, unit), {}
    where = {arm: arrays.get(f"placed/{arm}/{unit}") for arm in (MODEL, RULE)}
    if all(x is not None for x in where.values()):
        panels["error of place (spreads)"] = {
            arm: np.linalg.norm(align(np.asarray(x, float), true_NP) - true_NP, axis=1) / max(spread, 1e-12)
            for arm, x in where.items()
        }
    errors = {arm: arrays.get(f"expression_error/{arm}/{unit}") for arm in (MODEL, RULE)}
    if all(x is not None for x in errors.values()):
        panels["error of expression (mse)"] = {arm: np.asarray(x, float) for arm, x in errors.items()}
    if not panels:
        return []
    return [
        Picture(
            name="types",
            title=f"Errors by cell type in {unit}",
            caption=(
                "Mean over the cells of each type, whose number stands in brackets, for the model (orange) and the kNN "
                f"'{RULE}' (grey); further left is better. Error of place is the distance from the true place after "
                "placements are shifted, turned or mirrored and scaled onto the truth, in units of the section's own "
                "spread; error of expression is in squared model units. Types of few cells say little."
            ),
            draw=lambda: _draw_types(types, panels),
        )
    ]


def _draw_types(types: list[tuple[str, np.ndarray]], panels: dict[str, dict[str, np.ndarray]]) -> Figure:
    figure = canvas(0.27 * len(types) + 1.1)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for ax, (title, by_arm) in zip(axes, panels.items(), strict=True):
        for arm, error_N in by_arm.items():
            values = [error_N[here].mean() for _, here in types]
            ax.plot(values, range(len(types)), "o", ms=7, color=OWN if arm == MODEL else PLAIN, label=arm)
        ax.set_title(title, fontsize=10.5)
        ax.set_xlim(left=0)
        ax.grid(color="#E8E8E8", lw=0.8)
        ax.tick_params(axis="y", length=0)
        ax.spines[["top", "right", "left"]].set_visible(False)
    axes[0].set_yticks(range(len(types)), [name for name, _ in types], fontsize=9.5)
    axes[0].set_ylim(len(types) - 0.5, -0.5)
    axes[-1].legend(fontsize=9, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


_SEEN = 0.02
"""share of the true extent below which a state is not drawn"""


def _way(arrays: Arrays, unit: str) -> Picture:
    true_NP = arrays[f"true/{unit}"].astype(float)
    end = arrays.get(f"placed/{MODEL}, one sample/{unit}")
    states = [*arrays[f"way/{unit}"].astype(float)] + ([] if end is None else [end.astype(float)])
    # At pure noise the network is shown nothing, all cells in one point.
    states = [x_NP for x_NP in states if np.ptp(x_NP) > _SEEN * np.ptp(true_NP)]
    return Picture(
        name="way",
        title=f"How a sample of {unit} comes about",
        caption=(
            "One draw of the positions, from noise (left) to the sample (last but one) and the truth (right), at even "
            "steps of the solver: each state as the network is shown it, that is, shrunk by as much as noise hides. "
            "All panels have one scale; colour is the true place along the longest axis, so order appears as the "
            "gradient does. The sample is turned or mirrored, and its states with it, to lie as the truth does."
        ),
        draw=lambda: _draw_way(states, true_NP),
    )


def _draw_way(states: list[np.ndarray], true_NP: np.ndarray) -> Figure:
    true_NP = true_NP - true_NP.mean(0)
    last_NP = states[-1] - states[-1].mean(0)
    turn_PP = rotation(last_NP, true_NP)
    panels = [*((x_NP - x_NP.mean(0)) @ turn_PP for x_NP in states), true_NP]
    plane = planes_of(true_NP)[0]
    axis_N = true_NP[:, np.argmax(np.ptp(true_NP, 0))]
    shade_N = (axis_N - axis_N.min()) / max(np.ptp(axis_N), 1e-12)
    reach_P = 1.05 * np.max([np.abs(true_NP).max(0), np.quantile(np.abs(panels[-2]), 0.99, axis=0)], axis=0)
    wide = WIDTH / len(panels)
    figure = canvas(wide * ratio(2 * reach_P, plane) + 0.5)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    names = ["noise", *([""] * (len(panels) - 3)), "sample", "truth"]
    for ax, name, x_NP in zip(axes, names, panels, strict=True):
        scatter(ax, x_NP, plane, shade_N, (0.0, 1.0))
        frame(ax, -reach_P, reach_P, plane)
        ax.set_title(name, fontsize=10.5)
    return figure


def _space(arrays: Arrays, unit: str, align: Align) -> Picture:
    true_NP = arrays[f"true/{unit}"].astype(float)
    model_NP = align(arrays[f"placed/{MODEL}/{unit}"].astype(float), true_NP)
    return Picture(
        name="space",
        title=f"{unit} in space",
        caption=(
            "True places (left) and the model's (right), seen from one corner; colour is the true place along the "
            "longest axis. Placements are shifted, turned or mirrored, and scaled to the spread of the truth."
        ),
        draw=lambda: _draw_space(true_NP, model_NP),
    )


def _draw_space(true_NP: np.ndarray, model_NP: np.ndarray) -> Figure:
    axis_N = true_NP[:, np.argmax(np.ptp(true_NP, 0))]
    figure = canvas(4.4)
    low_P, high_P = true_NP.min(0), true_NP.max(0)
    for column, (name, x_NP) in enumerate({"truth": true_NP, MODEL: model_NP}.items(), 1):
        ax = figure.add_subplot(1, 2, column, projection="3d")
        ax.scatter(*x_NP.T, c=axis_N, s=np.clip(5000 / len(x_NP), 1.5, 14), lw=0, cmap="viridis", rasterized=True)
        for set_limits, low, high in zip((ax.set_xlim, ax.set_ylim, ax.set_zlim), low_P, high_P, strict=True):
            set_limits(low, high)
        ax.set_box_aspect(np.maximum(high_P - low_P, 0.15 * (high_P - low_P).max()))
        for each in (ax.xaxis, ax.yaxis, ax.zaxis):
            each.set_ticklabels([])
        ax.set_title(name, fontsize=10.5)
    return figure


def _experts(arrays: Arrays, unit: str, shares: dict[str, np.ndarray]) -> Picture:
    names = [str(name) for name in arrays["cell_types"]]
    return Picture(
        name="experts",
        title=f"Which expert serves which cell type in {unit}",
        caption=(
            "For each layer with experts, the share of each cell type's assignments that each expert gets, at the last "
            "step of one sample of the positions. Rows sum to 1; an even row means that the router does not look at "
            "the type. Experts have no order, so a column of one layer has nothing to do with that of another."
        ),
        draw=lambda: _draw_experts(names, shares),
    )


def _draw_experts(names: list[str], shares: dict[str, np.ndarray]) -> Figure:
    used_T = [t for t in range(len(next(iter(shares.values())))) if any(share[t].any() for share in shares.values())]
    used_T = used_T[:MOST_TYPES]
    figure = canvas(0.27 * len(used_T) + 1.2)
    axes = figure.subplots(1, len(shares), squeeze=False, sharey=True)[0]
    for ax, (layer, share_TE) in zip(axes, shares.items(), strict=True):
        image = ax.imshow(share_TE[used_T], vmin=0, vmax=1, cmap="viridis", aspect="auto", interpolation="nearest")
        ax.set_title(layer, fontsize=10.5)
        ax.set_xticks(range(share_TE.shape[1]))
        ax.set_xlabel("expert", fontsize=9)
        ax.tick_params(length=0, labelsize=9)
    axes[0].set_yticks(range(len(used_T)), [names[t] for t in used_T], fontsize=9.5)
    figure.colorbar(image, ax=list(axes), label="share of assignments", shrink=0.9)
    return figure
