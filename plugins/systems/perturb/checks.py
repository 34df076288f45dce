"""Choices of the perturbation system that contradict each other or do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from core.acts import Condition, Idle, spell
from core.config import resolve_part
from core.kinds import Plugin
from core.params import Field, fields
from core.registry import installed
from plugins.systems.perturb.generate import EXPRESSION, LATENT

if TYPE_CHECKING:
    from plugins.systems.perturb.system import Perturb

UNTAUGHT = ("latent_weight", "latent_of", "latent_guidance", "latent_guided_from", "latent_guided_to")
"""what means nothing where latents are never learned"""
STAGED = Condition(name="time", equal=True, values=("cascaded", "cascaded_noised"))


def check(system: Perturb) -> None:
    """Every choice does something beside the others, and something is learned and scored.

    Raises:
        Idle: a knob of the system does nothing.
        ValueError: with what to choose or to leave out.
    """
    if not system.expression_loss or not system.latent_loss or not system.metrics:
        raise ValueError("expression_loss, latent_loss and metrics each need at least one name")
    if system.solver.stochastic or system.solver.wants != "velocity":
        raise ValueError(
            "solver: cells are generated along velocities; take euler, heun or rk4, or an adaptive one, dopri5"
        )
    _paced(system)
    _guided(system)
    try:
        stages = system.time.stages(system.streams)
    except ValueError as error:
        raise ValueError(f"time: {error}") from None
    taught = {stream for stage in stages for stream in stage}
    if EXPRESSION not in taught:
        raise ValueError(
            f"time.stream = {stages[0][0]} teaches no expression, and no cell would be made; leave time.stream out"
        )
    if EXPRESSION not in stages[-1]:
        raise ValueError(
            f"with time.first = {stages[0][0]} latents would come last, and change no cell; leave time.first out, or "
            "take extractor = none"
        )
    _arrives(system, stages)
    if LATENT not in system.streams:
        _without_latents(system)
    elif (LATENT,) not in stages:
        untaught = UNTAUGHT if LATENT not in taught else ()
        for name in ("latent_steps", "latent_shift", *untaught):
            _in_vain(system, name, STAGED, {"time": _name(system.time)})
    extractor = system.extractor
    if system.latent_of == "covered" and extractor is not None and extractor.relative and not extractor.vocabulary():
        raise ValueError(
            f"latent_of = covered does nothing with extractor = {_name(extractor)}, which covers all genes; leave "
            "it out, or take an extractor that covers expressed genes, such as pca(covers=expressed)"
        )


def _paced(system: Perturb) -> None:
    """Steps are said to solvers that take as many as they are told."""
    if system.solver.calls(1) is not None:
        return
    default = _fields(system)
    for name in ("sampling", "latent_steps", "sampling_shift", "latent_shift"):
        given = getattr(system, name)
        if given != default[name].default:
            raise ValueError(
                f"{name} = {spell(given)} does nothing with a solver that chooses its own steps; leave it out, or take "
                "euler, heun or rk4"
            )


def _guided(system: Perturb) -> None:
    """Guidance has an interval and something to lead away from, and there is no interval without guidance."""
    for prefix in ("", "latent_"):
        weight, low, high = (f"{prefix}{word}" for word in ("guidance", "guided_from", "guided_to"))
        w, start, end = (getattr(system, name) for name in (weight, low, high))
        if start >= end:
            raise ValueError(f"{low} = {start} is not below {high} = {end}, so nothing is guided")
        if w == 1.0:
            for name in (low, high):
                _in_vain(system, name, Condition(name=weight, equal=False, values=("1",)), {weight: w})
        elif not system.forget:
            raise ValueError(
                f"{weight} = {spell(w)} leads away from what is predicted without the perturbation, which a network "
                "trained with forget = 0 was never asked for; train with forget above 0, or leave guidance out"
            )


def _arrives(system: Perturb, stages: tuple[tuple[str, ...], ...]) -> None:
    """A single step from pure noise goes nowhere on a path that begins at rest."""
    start = torch.zeros(1, dtype=torch.float64)
    (alpha, sigma), (d_alpha, d_sigma) = system.path.shares(start), system.path.rates(start)
    if bool(d_alpha * sigma - d_sigma * alpha > 0):
        return
    for stage in stages:
        name = "latent_steps" if stage == (LATENT,) else "sampling"
        if getattr(system, name) == 1:
            raise ValueError(
                f"{name} = 1 is too few on the path {_name(system.path)}, which stands still at pure noise; take 2 "
                "steps or more"
            )


def _without_latents(system: Perturb) -> None:
    """With one stream, what says how two go together does nothing."""
    default = _fields(system)
    if system.latent_loss != tuple(resolve_part("loss", name, {}) for name in default["latent_loss"].default):
        raise ValueError("latent_loss does nothing with extractor = none; leave it out, or choose an extractor")
    plain, spoken = resolve_part("time", default["time"].default, {}), _spoken(system.time)
    idle = system.time.idle(system.streams)
    if idle and spoken != _spoken(plain):
        raise ValueError(
            f"time = {spoken} says how streams go together, and with extractor = none there is one; leave it out or "
            "take time = shared, or choose an extractor"
        )
    vain = [name for name in idle if getattr(system.time, name) != getattr(plain, name)]
    if vain:
        told = " and ".join(f"time.{name} = {spell(getattr(system.time, name))}" for name in vain)
        raise ValueError(
            f"{told} {'does' if len(vain) == 1 else 'do'} nothing, as with extractor = none there is one stream; leave "
            f"{'it' if len(vain) == 1 else 'them'} out, or choose an extractor"
        )
    for dotted in system.backbone.idle(system.streams):
        piece, field = _found(system.backbone, dotted)
        if getattr(piece, field.name) != field.default:
            raise ValueError(
                f"backbone.{dotted} = {spell(getattr(piece, field.name))} does nothing, as with extractor = none there "
                "are no latents; leave it out, or choose an extractor"
            )


def _in_vain(system: Perturb, name: str, unless: Condition, found: dict[str, Any]) -> None:
    """Refuse any value of a knob but its default.

    Raises:
        Idle: it has another.
    """
    value = getattr(system, name)
    if value != _fields(system)[name].default:
        raise Idle(name, value, unless, found)


def _found(piece: Any, dotted: str) -> tuple[Any, Field]:
    """A parameter of a piece or of a group in it, and what holds its value."""
    first, _, rest = dotted.partition(".")
    return _found(getattr(piece, first), rest) if rest else (piece, _fields(piece)[first])


def _fields(piece: Any) -> dict[str, Field]:
    return {field.name: field for field in fields(type(piece))}


def _name(piece: Plugin) -> str:
    return type(piece).__name__.lower()


def _spoken(piece: Plugin) -> str:
    """The name that stands for a piece as it is: of names for one class, the one whose preset says the most of it."""
    cls = type(piece)
    rows = [
        row
        for row in installed().rows(cls.KIND)
        if row.target == f"{cls.__module__}:{cls.__qualname__}"
        and all(getattr(piece, key, None) == value for key, value in row.preset.items())
    ]
    return max(rows, key=lambda row: len(row.preset)).name if rows else _name(piece)
