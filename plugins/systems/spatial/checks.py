"""Choices of the spatial system that contradict each other or do nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from core.params import fields
from plugins.systems.spatial.fields import MODALITIES
from plugins.systems.spatial.masking import Masking
from plugins.systems.spatial.process import stands_still

if TYPE_CHECKING:
    from plugins.systems.spatial.system import Spatial


def check(system: Spatial) -> None:
    """Every choice does something beside the others, and something is learned and scored.

    Raises:
        ValueError: with what to choose or to leave out.
    """
    if not system.expression_loss or not system.position_loss or not system.metrics:
        raise ValueError("expression_loss, position_loss and metrics each need at least one name")
    for loss in (*system.expression_loss, *system.position_loss):
        if loss.reads != "values":
            raise ValueError(
                f"expression_loss and position_loss compare values, and {type(loss).__name__} reads {loss.reads}; "
                "take a loss of values, such as mse"
            )
    if not any(metric.of in system.learned for metric in system.metrics):
        raise ValueError(
            f"mode = {system.mode} predicts {system.learned[0]} alone, and none of the metrics judges that; name one, "
            f"such as {system.headline.rpartition('/')[2]}"
        )
    if system.mode == "pos_to_expr" and system.position_path is not None:
        raise ValueError("position_path does nothing with mode = pos_to_expr, as positions are never noised")
    defaults = {field.name: field.default for field in fields(Masking)}
    for m in MODALITIES:
        if m not in system.learned and getattr(system.masking, m) != defaults[m]:
            raise ValueError(f"masking.{m} does nothing with mode = {system.mode}, where {m} is always given")
    named = system.conditions
    if named is not None and (not named or len({*named}) < len(named)):
        raise ValueError("conditions are named once each: cell_type, section, cell_type,section or none")
    for field in fields(type(system)) if system.solver.calls(1) is None else ():
        given = getattr(system, field.name)
        if field.name in ("sampling", "grid") and given != field.default:
            raise ValueError(
                f"{field.name} = {given} does nothing with a solver that chooses its own steps; leave it at "
                f"{field.default}, or take euler, heun or ddim"
            )
    if system.solver.wants == "velocity" and system.sampling == 1:
        for path in (system.path_of(m) for m in system.learned):
            if stands_still(path):
                raise ValueError(
                    f"sampling = 1 is too few for the solver {type(system.solver).__name__.lower()} on the path "
                    f"{type(path).__name__.lower()}, which stands still at pure noise; take 2 steps or more, or the "
                    "solver ddim"
                )
