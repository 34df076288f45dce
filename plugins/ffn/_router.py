"""Which experts serve a token, and in which order the rows are computed.

N tokens, D width, E experts, K experts a token, R = N * K assignments of a token to an expert.
"""

from __future__ import annotations

import math
from typing import Literal

import attrs
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from core.nn.recompute import repeating
from core.train.between import BetweenSteps
from core.train.ranks import Share, share
from core.train.streams import Stochastic
from plugins.ffn._grouped import Spans

LOGIT_LIMIT = 1e15
"""logits beyond it, infinite ones too, count as this much, so that weights and the z-loss stay finite"""


@attrs.frozen
class Choice:
    """What the router says of each token."""

    logits_NE: Tensor
    expert_NK: Tensor
    """the chosen experts, the most wanted first"""
    weight_NK: Tensor
    """softmax over the chosen logits"""


class Router(BetweenSteps, nn.Module):
    """Logits W x, the `top_k` best of them, and softmax weights over these.

    With balance `bias` an offset b is added to the logits for choosing, not for weighing. After each training step b
    moves by `rate` towards experts with less than the mean load of the step: b += rate sign(mean load - load) (Wang et
    al. 2024, arXiv:2408.15664, algorithm 1; there b is added to a sigmoid of the logit, which orders huge logits no
    longer). b is part of the state and no parameter: no gradient, no weight decay, no averaging.

    With `noise`, logits get noise * N(0, 1) * softplus(W_n x) in training, for choosing, weighing and balancing alike
    (Shazeer et al. 2017, arXiv:1701.06538, eq. 4).
    """

    def __init__(
        self,
        width: int,
        experts: int,
        top_k: int,
        balance: Literal["loss", "bias", "none"],
        rate: float,
        noise: float = 0.0,
    ) -> None:
        super().__init__()
        self.top_k, self.rate, self.noise = top_k, rate, noise
        self.weight = nn.Parameter(torch.empty(experts, width))
        self.noise_weight = nn.Parameter(torch.empty(experts, width)) if noise > 0.0 else None
        self.normal = Normal()
        self.register_buffer("offset_E", torch.zeros(experts) if balance == "bias" else None)
        self.offset_E: Tensor | None
        self._seen_E: Tensor | None = None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights as those of a linear layer, no expert preferred."""
        nn.init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        if self.noise_weight is not None:
            nn.init.kaiming_uniform_(self.noise_weight, a=math.sqrt(5))
        if self.offset_E is not None:
            self.offset_E.zero_()

    def forward(self, x_ND: Tensor) -> Choice:
        """The choice for tokens `x_ND` of float32 or wider: rounding would send tokens to other experts."""
        with torch.autocast("cpu" if x_ND.is_meta else x_ND.device.type, enabled=False):
            logits_NE = x_ND @ self.weight.to(x_ND.dtype).T
            if self.training and self.noise_weight is not None:
                spread_NE = F.softplus(x_ND @ self.noise_weight.to(x_ND.dtype).T)
                logits_NE = logits_NE + self.noise * self.normal(logits_NE) * spread_NE
            logits_NE = logits_NE.clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        if self.offset_E is None:
            chosen_NK, expert_NK = logits_NE.topk(self.top_k, dim=-1)
        else:
            expert_NK = (logits_NE.detach() + self.offset_E.to(x_ND.dtype)).topk(self.top_k, dim=-1).indices
            chosen_NK = logits_NE.gather(-1, expert_NK)
        return Choice(logits_NE, expert_NK, torch.softmax(chosen_NK, dim=-1))

    def count(self, counts_E: Tensor) -> None:
        """Note how many tokens of a training pass chose each expert; a pass that is repeated counts once."""
        mine = share()
        if self.offset_E is not None and not repeating() and not (mine is not None and mine.idle):
            self._seen_E = counts_E if self._seen_E is None else self._seen_E + counts_E

    def step_taken(self) -> None:
        if self.offset_E is None:
            return
        many = dist.is_available() and dist.is_initialized()
        if self._seen_E is None and not many:
            return
        # A rank that had no set of its own takes part in the sum all the same.
        seen_E = (
            self.offset_E.new_zeros(len(self.offset_E), dtype=torch.int64) if self._seen_E is None else self._seen_E
        )
        if many:
            dist.all_reduce(seen_E)
        # Whole numbers, as a rounded mean would tip an even load to one side.
        self.offset_E += self.rate * torch.sign(seen_E.sum() - len(seen_E) * seen_E)
        self._seen_E = None


class Normal(Stochastic):
    """Standard normal numbers on the module's own stream."""

    def forward(self, like: Tensor) -> Tensor:
        # The middle of each of 2^24 equal parts of (0, 1), as the inverse has no value at the ends.
        u = self.uniform(like.shape, like, over="tokens").double() + 2.0**-25
        return torch.special.ndtri(u).to(like.dtype)


class Jitter(Stochastic):
    """Multiplies by U(1 - rate, 1 + rate) in training, on the module's own stream."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_ND: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x_ND
        return x_ND * (1.0 + self.rate * (2.0 * self.uniform(x_ND.shape, x_ND, over="tokens").to(x_ND.dtype) - 1.0))


@attrs.frozen
class Timetable:
    """Assignments sorted by expert."""

    source_R: Tensor
    """for each row its token"""
    target_NK: Tensor
    """for each assignment its row"""
    spans: Spans
    """for each expert the rows that it computes; rows outside are dropped"""
    counts_E: Tensor
    """how many tokens chose each expert, dropped or not"""
    dropped: float
    """share of assignments that are dropped"""


@torch.no_grad()
def timetable(choice: Choice, experts: int, capacity: float | None) -> Timetable:
    """Sort assignments by expert; with a capacity, an expert's rows begin with those of the highest weight.

    Args:
        choice: experts and weights of each token.
        experts: how many there are.
        capacity: rows that an expert computes at most, in even shares R / E, rounded up; None: all.
    """
    tokens, top_k = choice.expert_NK.shape
    rows = tokens * top_k
    room = rows if capacity is None else _room(rows, experts, capacity)
    expert_R = choice.expert_NK.flatten()
    if expert_R.is_meta:
        # The load is data, and meta tensors have none. FLOPs depend on the sum alone: one expert stands for all.
        computed = rows if capacity is None else min(rows, room * experts)
        return Timetable(
            expert_R, choice.expert_NK, [(0, computed)], expert_R.new_empty(experts), 1.0 - computed / max(1, rows)
        )
    if capacity is None:
        order_R = expert_R.argsort(stable=True)
    else:
        by_weight_R = choice.weight_NK.flatten().argsort(stable=True, descending=True)
        order_R = by_weight_R[expert_R[by_weight_R].argsort(stable=True)]
    counts_E = torch.bincount(expert_R, minlength=experts)
    mine = share()
    served_E = counts_E.clamp(max=room)
    if capacity is not None and mine is not None:
        served_E = _served_here(choice, experts, capacity, mine)
    spans, begin = [], 0
    for count, served in zip(counts_E.tolist(), served_E.tolist(), strict=True):
        spans.append((begin, begin + served))
        begin += count
    target_R = torch.empty_like(order_R).scatter_(0, order_R, torch.arange(rows, device=order_R.device))
    computed = sum(end - first for first, end in spans)
    return Timetable(order_R // top_k, target_R.view(tokens, top_k), spans, counts_E, 1.0 - computed / max(1, rows))


def _room(rows: int, experts: int, capacity: float) -> int:
    return min(rows, max(1, math.ceil(capacity * rows / experts)))


def _served_here(choice: Choice, experts: int, capacity: float, mine: Share) -> Tensor:
    """How many of this process's rows each expert has room for, (E,), where the whole batch competes for it."""
    expert_NK, begin = mine.tokens(choice.expert_NK)
    weight_NK, _ = mine.tokens(choice.weight_NK)
    expert_R, rows = expert_NK.flatten(), expert_NK.numel()
    by_weight_R = weight_NK.flatten().argsort(stable=True, descending=True)
    order_R = by_weight_R[expert_R[by_weight_R].argsort(stable=True)]
    counts_E = torch.bincount(expert_R, minlength=experts)
    rank_R = torch.arange(rows, device=order_R.device) - (counts_E.cumsum(0) - counts_E)[expert_R[order_R]]
    token_R = order_R // max(1, expert_NK.shape[1])
    own_R = (token_R >= begin) & (token_R < begin + len(choice.expert_NK))
    return torch.bincount(expert_R[order_R[own_R & (rank_R < _room(rows, experts, capacity))]], minlength=experts)
