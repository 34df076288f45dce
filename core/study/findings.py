"""What a study came to: everything that a report shows, as plain values without a clock, a host or a path.

The same trials give the same findings to the byte, whoever ran them, in whatever order and however often interrupted.
Only `measured` numbers (seconds, memory) differ between two executions of one trial.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from core.study.stats.contrast import Contrast
from core.study.stats.factorial import Effects
from core.study.stats.interquartile import Iqm
from core.study.stats.noise import NoiseFloor
from core.study.stats.power import Point
from core.study.stats.scores import Estimate
from core.study.stats.units import TwoLevel
from core.study.stats.verdict import Verdict


@attrs.frozen(kw_only=True)
class Pairs:
    """Which runs are compared: a seed in a block."""

    seed: int
    block: str
    """empty where the study has one block"""


@attrs.frozen(kw_only=True)
class Outcome:
    """One trial of an arm."""

    trial: str
    """first 16 digits of its identity"""
    seed: int
    block: str
    state: str
    """pending, running, done, failed, crashed, timeout, exhausted or stopped"""
    cached: bool = False
    value: float | None = None
    """of the primary metric; None unless done"""
    message: str = ""
    """why it failed"""
    command: str = ""
    """what repeats it"""
    scores: Mapping[str, float] = attrs.field(factory=dict)
    """its other metrics, `task/metric` -> value"""


@attrs.frozen(kw_only=True)
class CostOf:
    """What an arm costs. None where nobody measured it."""

    parameters: int
    active: int
    """parameters that one token uses"""
    flops: int
    """of a training step, forward and backward"""
    seconds: float | None
    """median over its trials of the mean time of a step"""
    memory: int | None
    """bytes, the largest peak over its trials"""


@attrs.frozen(kw_only=True)
class CurvePoint:
    """Mean over seeds at one step of training, with the lowest and highest seed."""

    step: int
    mean: float
    low: float
    high: float


@attrs.frozen(kw_only=True)
class ArmFound:
    """One arm of one system."""

    label: str
    """`attention=linear ffn=dense`"""
    levels: Mapping[str, str]
    baseline: bool
    stopped: str
    """why the arm was given up, empty where it was not"""
    outcomes: tuple[Outcome, ...]
    mean: Estimate | None
    """of the primary metric over its own seeds"""
    sd: float | None
    cost: CostOf
    matched: Mapping[str, Any]
    """parameter that was turned to match a budget -> its value"""
    contrast: Contrast | None
    """against the baseline; None for itself, and for a stopped arm"""
    verdict: Verdict | None
    units: TwoLevel | None
    """the difference with an interval for new seeds on new units (sections, chromosomes), where units are scored"""
    inside_noise: bool
    """the difference lies within the noise floor"""
    curve: tuple[CurvePoint, ...]
    """validation loss over training"""


@attrs.frozen(kw_only=True)
class Secondary:
    """One more metric, exploratory: no verdict rests on it."""

    key: str
    """`task/metric`"""
    label: str
    larger_is_better: bool
    means: Mapping[str, Estimate]
    """arm -> mean over seeds"""
    differences: Mapping[str, Estimate]
    """arm -> paired difference to the baseline, without correction for many comparisons"""


@attrs.frozen(kw_only=True)
class SystemFound:
    """One system of the study."""

    system: str
    data: Mapping[str, Any]
    metric: str
    """key of the primary metric, `task/metric`"""
    label: str
    """the metric as a reader calls it"""
    larger_is_better: bool
    references: Mapping[str, float]
    """the field's trivial baselines (mean, random, nearest neighbours, ...) and the ceiling, on the primary metric"""
    arms: tuple[ArmFound, ...]
    """the baseline first"""
    family: int
    """contrasts that the correction counts, fixed by the plan"""
    noise: NoiseFloor | None
    effects: Effects | None
    aliases: tuple[str, ...]
    """for a fraction: one line an effect that cannot be told from others"""
    power: tuple[Point, ...]
    """seeds -> what they would find, at the median spread of this study's differences"""
    needed: int | None
    """seeds that would find a difference of `mde` times the baseline's mean; None where none would, or it is unknown"""
    secondary: tuple[Secondary, ...]
    power_relative: bool = True
    """effects of `power` are shares of the baseline's mean; otherwise in the metric's own unit"""


@attrs.frozen(kw_only=True)
class Deviation:
    """Something that is not as it was planned, or that a reader must know before trusting a number."""

    kind: str
    """analysis, code, data, environment, extended, excluded, stopped, missing, conflict, corrupt"""
    text: str


@attrs.frozen(kw_only=True)
class OverSystems:
    """One arm over several systems, as shares of the way from a trivial baseline to the best possible score."""

    label: str
    effects: Mapping[str, Estimate]
    mean: Estimate | None
    p: float | None


@attrs.frozen(kw_only=True)
class Audited:
    """Finished trials that were repeated from nothing and compared to the last digit."""

    trials: int
    repetitions: int
    """finished ones of these trials"""
    other: int
    """trials of which a repetition gave other numbers"""


@attrs.frozen(kw_only=True)
class Findings:
    """A study, judged."""

    title: str
    plan: str
    """hash of the plan"""
    settings: tuple[tuple[str, str, str], ...]
    """key, value, origin"""
    axes: Mapping[str, tuple[str, ...]]
    baseline: Mapping[str, str]
    seeds: tuple[int, ...]
    blocks: tuple[str, ...]
    alpha: float
    mde: float
    margin: float
    counts: Mapping[str, int]
    """planned = done + cached + failed + exhausted + stopped + running + pending; n/a and excluded count cells"""
    complete: bool
    """every planned trial is done or stopped"""
    idle: tuple[tuple[str, str, str], ...]
    """cells that do not run: label, n/a or excluded, the reason"""
    warnings: tuple[str, ...]
    deviations: tuple[Deviation, ...]
    systems: tuple[SystemFound, ...]
    over_systems: tuple[OverSystems, ...]
    iqm: Iqm | None
    code: Mapping[str, int]
    """revision of the code -> trials that ran with it"""
    environments: Mapping[str, int]
    """versions that matter, in one line -> trials"""
    fixed: tuple[tuple[str, str, str, str], ...] = ()
    """what was set for all arms: key, value, task (empty: all of them), origin; empty where the plan does not say"""
    pieces: tuple[str, ...] | None = None
    """axes whose levels are names of pieces, not numbers or texts; None where the plan does not say"""
    audited: Audited | None = None
    """trials that were repeated from nothing; None where none were"""
