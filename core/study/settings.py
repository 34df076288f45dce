"""What a study may be told, beside what is varied; a flag and a key of a study file for each."""

from __future__ import annotations

from typing import Literal

from core.params import group, knob, params

Match = Literal["none", "params", "active", "flops", "time", "steps"]


@params
class DesignSettings:
    """Which cells are tried."""

    kind: str = knob("full", "full, ofat, twoway, fraction:E=ABCD, or list (with [[design.cells]])")


@params
class Budget:
    """What all arms get the same of."""

    match: Match = knob(
        "none",
        "give every arm the baseline's parameters, active parameters, FLOPs a step, or (by fewer or more steps) time; "
        "none and steps: the same steps, whatever an arm costs",
    )
    on: str = knob(
        "", "the parameter that is turned until an arm matches; empty: what the system names",
        acts="match=params|active|flops",
    )  # fmt: skip
    tolerance: float = knob(
        0.02,
        "largest relative difference that counts as matched",
        gt=0.0,
        lt=1.0,
        acts="match=params|active|flops|time",
    )


@params
class Analysis:
    """How the results are judged. Frozen in the plan; a later change is told in the report."""

    metric: tuple[str, ...] = knob(
        (), "the primary metric, `distance_spearman` or `expression to position/distance_spearman`, one for each "
        "system; empty: the systems' own",
    )  # fmt: skip
    alpha: float = knob(0.05, "chance that any verdict of the study is false where nothing differs", ge=1e-6, lt=0.5)
    mde: float = knob(0.05, "relative change that the study ought to find, for power", ge=1e-6, le=10.0)
    margin: float = knob(0.02, "relative change too small to matter: within it arms are equivalent", ge=0.0, lt=1.0)
    power: float = knob(0.8, "chance to find a change of `mde`", ge=0.5, lt=1.0)
    require_power: bool = knob(False, "refuse a study whose planned seeds cannot find 2 standard deviations")


@params
class RunSettings:
    """How trials are run. None of it is part of what a trial is."""

    executor: str = knob(
        "local(slots=auto)", "where trials run: a name, or a call such as submitit(partition=gpu); as many as it takes"
    )
    slots: int = knob(0, "trials at a time; 0: as the executor says, by itself as many as cores or GPUs allow", ge=0)
    threads: int = knob(0, "threads of a trial; 0: as the executor says, by itself cores divided by slots", ge=0)
    gpus: tuple[int, ...] = knob((), "GPUs that trials are divided over")
    attempts: int = knob(2, "times that a trial is begun before it counts as exhausted", ge=1)
    timeout: str = knob("", "longest time of an attempt: 90s, 30m, 2h; empty: none")
    stop: str = knob("none", "none, or futility@STEP: an arm that is clearly worse there is not finished")
    store: str = knob("", "directory where results are shared between studies; empty: CORE_STORE, else none")
    keep: bool = knob(False, "keep the weights of finished trials")


@params
class Study:
    """One study."""

    title: str = knob("", "what the report calls it; empty: the directory's name")
    system: tuple[str, ...] = knob((), "the systems, each a task of its own; empty: the default system")
    seeds: str = knob("6", "how many seeds, or which: 6, 10:16, or 3,7,11")
    blocks: str = knob("", "a second thing that all arms are repeated over: data.seed=0,1,2")
    design: DesignSettings = group("which cells are tried")
    budget: Budget = group("what all arms get the same of")
    analysis: Analysis = group("how the results are judged")
    run: RunSettings = group("how trials are run")
