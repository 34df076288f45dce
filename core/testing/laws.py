"""Which laws a piece obeys, by its kind and by what its class says of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from core.kinds.metric import GroupMetric
from core.testing.anchor import AnchorLaws
from core.testing.attention import AttentionLaws
from core.testing.extractor import ExtractorLaws
from core.testing.ffn import FFNLaws, MixtureLaws
from core.testing.gate import GateLaws
from core.testing.group_metric import GroupMetricLaws
from core.testing.head import HeadLaws
from core.testing.kernel import KernelLaws
from core.testing.loss import LossLaws
from core.testing.losses import LAWS as BY_WHAT_IS_READ
from core.testing.mask import MaskLaws
from core.testing.metric import MetricLaws
from core.testing.outer import ExecutorLaws, StrategyLaws
from core.testing.path import PathLaws
from core.testing.pooling import PoolingLaws
from core.testing.position import PositionLaws
from core.testing.residual import ResidualLaws
from core.testing.solver import SolverLaws
from core.testing.sparsifier import SparsifierLaws
from core.testing.time import TimeLaws

LAWS: dict[str, Callable[[Any], tuple[type, ...]]] = {
    "attention": lambda cls: (AttentionLaws,),
    "mask": lambda cls: (MaskLaws,),
    "sparsifier": lambda cls: (SparsifierLaws,),
    "gate": lambda cls: (GateLaws,),
    "kernel": lambda cls: (KernelLaws,),
    "position": lambda cls: (PositionLaws,),
    "anchor": lambda cls: (AnchorLaws,),
    "ffn": lambda cls: (FFNLaws, MixtureLaws) if cls.routed else (FFNLaws,),
    "residual": lambda cls: (ResidualLaws,),
    "pooling": lambda cls: (PoolingLaws,),
    "head": lambda cls: (HeadLaws,),
    "path": lambda cls: (PathLaws,),
    "time": lambda cls: (TimeLaws,),
    "solver": lambda cls: (SolverLaws,),
    "loss": lambda cls: (BY_WHAT_IS_READ[cls.reads],),
    "metric": lambda cls: (GroupMetricLaws,) if issubclass(cls, GroupMetric) else (MetricLaws,),
    "extractor": lambda cls: (ExtractorLaws,),
    "strategy": lambda cls: (StrategyLaws,),
    "executor": lambda cls: (ExecutorLaws,),
}
"""kind -> the law classes of a class of that kind"""

ONE_BY_ONE = (ExecutorLaws, GroupMetricLaws, LossLaws, MetricLaws, PathLaws, SolverLaws, StrategyLaws, TimeLaws)
"""laws that take a plugin as it stands; all others take a strategy and draw configurations as they draw tensors"""

MORE: dict[str, str] = {
    "system": "subclass core.testing.system.SystemLaws and say how a small trainer is made",
    "recipe": "a recipe is a set of choices; `core run --recipe NAME --dry-run` resolves it",
    "data": "subclass core.testing.data.DataLaws and say which data are judged, and which differ from them",
    "encoder": "subclass core.testing.encoder.EncoderLaws and say which card and fields it reads",
    "backbone": "subclass core.testing.backbone.BackboneLaws and say which card, fields and parts it is built from",
    "tracker": "subclass core.testing.outer.TrackerLaws and say how a track is read back",
    "coupling": "there are no laws of couplings yet",
}
"""kind -> why a name is not enough, and what to do"""
