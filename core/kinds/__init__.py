"""The interfaces. Each file holds one: its contract in words and shapes, and the laws that `core.testing` checks."""

from core.kinds.anchor import Anchor
from core.kinds.attention import Attention, AttentionLayer, NoWeights
from core.kinds.data import Batch, Card, Data, Source, Split
from core.kinds.encoder import Encoder, Tokens
from core.kinds.executor import Executor, Finished, Job
from core.kinds.extractor import Extractor
from core.kinds.ffn import FFN, Aux
from core.kinds.gate import Gate, GateLayer
from core.kinds.kernel import Kernel, Request
from core.kinds.loss import Loss
from core.kinds.mask import Mask
from core.kinds.metric import Metric, Tally
from core.kinds.path import FlowPath, PathPoint, Target
from core.kinds.plugin import Plugin
from core.kinds.pooling import Pooling
from core.kinds.solver import Field, Noise, Solver, Tree
from core.kinds.sparsifier import Sparsifier
from core.kinds.strategy import Strategy
from core.kinds.system import Evaluation, Picture, Score, System, Terms
from core.kinds.time import Time
from core.kinds.tracker import Track, Tracker

__all__ = [
    "FFN",
    "Anchor",
    "Attention",
    "AttentionLayer",
    "Aux",
    "Batch",
    "Card",
    "Data",
    "Encoder",
    "Evaluation",
    "Executor",
    "Extractor",
    "Field",
    "Finished",
    "FlowPath",
    "Gate",
    "GateLayer",
    "Job",
    "Kernel",
    "Loss",
    "Mask",
    "Metric",
    "NoWeights",
    "Noise",
    "PathPoint",
    "Picture",
    "Plugin",
    "Pooling",
    "Request",
    "Score",
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
]  # fmt: skip
