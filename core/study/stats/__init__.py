"""The statistics of a study: numpy and scipy alone, plain arrays in, frozen records of plain numbers out."""

from core.study.stats.aggregate import Scale, TaskMean, over_tasks
from core.study.stats.alias import Alias, Aliases, aliases
from core.study.stats.contrast import Contrast, paired
from core.study.stats.factorial import Effects, effects
from core.study.stats.futility import Futility, futile
from core.study.stats.interquartile import Iqm, iqm
from core.study.stats.noise import NoiseFloor, noise_floor
from core.study.stats.power import Point, detectable, power_curve, power_of, seeds_needed
from core.study.stats.resampled import nadeau_bengio
from core.study.stats.scores import FEWEST, Estimate
from core.study.stats.signflip import SignFlip, sign_flip
from core.study.stats.units import TwoLevel, two_level
from core.study.stats.verdict import Margin, Verdict, equivalence, holm, judge

__all__ = [
    "FEWEST",
    "Alias",
    "Aliases",
    "Contrast",
    "Effects",
    "Estimate",
    "Futility",
    "Iqm",
    "Margin",
    "NoiseFloor",
    "Point",
    "Scale",
    "SignFlip",
    "TaskMean",
    "TwoLevel",
    "Verdict",
    "aliases",
    "detectable",
    "effects",
    "equivalence",
    "futile",
    "holm",
    "iqm",
    "judge",
    "nadeau_bengio",
    "noise_floor",
    "over_tasks",
    "paired",
    "power_curve",
    "power_of",
    "seeds_needed",
    "sign_flip",
    "two_level",
]
