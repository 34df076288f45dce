"""The interfaces. Each file holds one: its contract in words and shapes, and the laws that `core.testing` checks."""

from core.kinds.anchor import Anchor
from core.kinds.attention import Attention, AttentionLayer, NoWeights
from core.kinds.backbone import Backbone, Parts
from core.kinds.comparison import Comparison, Truth, Undefined
from core.kinds.data import Batch, Card, Data, Items, Source, Split
from core.kinds.encoder import Encoder, Tokens
from core.kinds.executor import Executor
from core.kinds.extractor import Extractor, Fitted, Latents
from core.kinds.ffn import FFN, Aux
from core.kinds.gate import Gate, GateLayer
from core.kinds.head import Head
from core.kinds.kernel import Kernel, Request
from core.kinds.loss import (
    FeatureLoss,
    Loss,
    LossFacts,
    PureLoss,
    RankingLoss,
    SampleLoss,
    ScoreLoss,
    ValueLoss,
    ViewLoss,
    WeightLoss,
)
from core.kinds.mask import Layout, Mask
from core.kinds.metric import Graded, GroupMetric, Metric, Tally
from core.kinds.path import FlowPath, PathPoint, Target
from core.kinds.plugin import Plugin
from core.kinds.pooling import Pooling
from core.kinds.position import Places, Position, PositionLayer
from core.kinds.residual import Residual
from core.kinds.solver import Field, Noise, Solver, Tree
from core.kinds.sparsifier import Sparsifier
from core.kinds.strategy import Strategy
from core.kinds.system import Evaluation, Picture, Score, System, Terms
from core.kinds.time import Drawn, Time
from core.kinds.tracker import Track, Tracker
from core.study.job import Finished, Job, Running

__all__ = [
    "FFN",
    "Anchor",
    "Attention",
    "AttentionLayer",
    "Aux",
    "Backbone",
    "Batch",
    "Card",
    "Comparison",
    "Data",
    "Drawn",
    "Encoder",
    "Evaluation",
    "Executor",
    "Extractor",
    "FeatureLoss",
    "Field",
    "Finished",
    "Fitted",
    "FlowPath",
    "Gate",
    "GateLayer",
    "Graded",
    "GroupMetric",
    "Head",
    "Items",
    "Job",
    "Kernel",
    "Latents",
    "Layout",
    "Loss",
    "LossFacts",
    "Mask",
    "Metric",
    "NoWeights",
    "Noise",
    "Parts",
    "PathPoint",
    "Picture",
    "Places",
    "Plugin",
    "Pooling",
    "Position",
    "PositionLayer",
    "PureLoss",
    "RankingLoss",
    "Request",
    "Residual",
    "Running",
    "SampleLoss",
    "Score",
    "ScoreLoss",
    "Solver",
    "Source",
    "Sparsifier",
    "Split",
    "Strategy",
    "System",
    "Tally",
    "Target",
    "Terms",
    "Time",
    "Tokens",
    "Track",
    "Tracker",
    "Tree",
    "Truth",
    "Undefined",
    "ValueLoss",
    "ViewLoss",
    "WeightLoss",
]  # fmt: skip
