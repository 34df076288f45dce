"""A mixture of experts.

B batch, T tokens, N real tokens of the whole batch, D width, E experts, K experts a token, F inner width of an expert,
R = N * K assignments sorted by expert.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from core.kinds.ffn import FFN, Aux
from core.params import knob, params
from core.train.streams import Dropout, Stochastic
from plugins.ffn.dense import ACTIVATIONS, Activation, inner_width


@params
class Moe(FFN):
    """Top-k routed mixture of experts: each token is served by its `top_k` best experts only.

    y = sum over the chosen i of w_i E_i(x), w = softmax over the chosen logits of W_r x (Shazeer et al. 2017,
    arXiv:1701.06538, eq. 3 and 5 without the noise term). All experts together are as wide as a dense network of the
    same `ratio`, so that arms have equal size and a token pays top_k / experts of it (fine-grained experts, Dai et al.
    2024, arXiv:2401.06066). No expert has a capacity: no token is dropped.
    """

    experts: int = knob(4, "number of expert networks", ge=1)
    top_k: int = knob(2, "experts used per token", ge=1, source="Shazeer et al. 2017, eq. 5")
    ratio: float = knob(4.0, "inner width of all experts together over width", gt=0.0)
    activation: Activation = knob("gelu", "inside an expert")
    dropout: float = knob(0.0, "share of inner channels dropped in training", ge=0.0, lt=1.0)
    jitter: float = knob(
        0.0,
        "in training the router's input is multiplied by U(1 - jitter, 1 + jitter)",
        ge=0.0,
        lt=1.0,
        source="Fedus et al. 2022, arXiv:2101.03961, appendix C",
    )
    balance: Literal["loss", "none"] = knob("loss", "how the load of experts is balanced")
    balance_weight: float = knob(0.01, "weight of the balance loss", ge=0.0, source="Fedus et al. 2022, eq. 4")
    z_weight: float = knob(
        0.0,
        "weight of the router z-loss, which keeps logits small",
        ge=0.0,
        source="Zoph et al. 2022, arXiv:2202.08906, eq. 5",
    )

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.top_k <= self.experts:
            raise ValueError(f"top_k must be between 1 and experts={self.experts}, got {self.top_k}")

    def build(self, width: int) -> MoeLayer:
        return MoeLayer(self, width)


class MoeLayer(nn.Module):
    """The module of `Moe`."""

    def __init__(self, plugin: Moe, width: int) -> None:
        super().__init__()
        self.plugin = plugin
        self.router = nn.Linear(width, plugin.experts, bias=False)
        self.jitter = Jitter(plugin.jitter)
        self.experts = Experts(plugin, width)

    def forward(self, x_BTD: Tensor, real_BT: Tensor | None = None) -> tuple[Tensor, Aux]:
        """Tokens after their experts, (B, T, D), of the dtype of `x_BTD`.

        `Aux.losses` has `balance` and `router_z`, weighted. Unweighted, `balance` is 1 where the router is even and
        E / top_k where a sure router sends all tokens to the same experts; an unsure one can lie below 1, as load and
        probability need not agree. `Aux.stats` has `load` (E,), each expert's share of the assignments.

        Args:
            x_BTD: tokens.
            real_BT: bool, False on padding, which is not routed, not counted, and comes out as zeros; None where
                nothing is padded.
        """
        every_D = x_BTD.flatten(0, 1)
        # Which tokens are real is data, and meta tensors have none: there all are taken, for shapes and FLOPs.
        keep_N = None if real_BT is None or x_BTD.is_meta else real_BT.flatten().nonzero().squeeze(1)
        x_ND = every_D if keep_N is None else every_D.index_select(0, keep_N)
        logits_NE = self._logits(x_ND)
        top_NK, expert_NK = logits_NE.topk(self.plugin.top_k, dim=-1)
        order, counts = _by_expert(expert_NK, self.plugin.experts)
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        sorted_RD = _Gather.apply(x_ND, order, inverse, self.plugin.top_k)
        served_NKD = _Gather.apply(self.experts(sorted_RD, counts), inverse, order, 1).unflatten(0, top_NK.shape)
        out_ND = (torch.softmax(top_NK, dim=-1)[..., None] * served_NKD).sum(dim=1).to(x_BTD.dtype)
        if keep_N is not None:
            out_ND = torch.zeros_like(every_D).index_copy(0, keep_N, out_ND)
        return out_ND.view_as(x_BTD), self._aux(logits_NE, counts)

    def _logits(self, x_ND: Tensor) -> Tensor:
        """Router logits (N, E), under autocast too in float32 or wider: rounding would send tokens to other experts."""
        wide = torch.promote_types(x_ND.dtype, torch.float32)
        with torch.autocast("cpu" if x_ND.is_meta else x_ND.device.type, enabled=False):
            return self.jitter(x_ND.to(wide)) @ self.router.weight.to(wide).T

    def _aux(self, logits_NE: Tensor, counts: list[int]) -> Aux:
        tokens = max(1, len(logits_NE))
        load_E = logits_NE.new_tensor(counts) / max(1, sum(counts))
        losses = {}
        if self.plugin.balance == "loss":
            mean_E = torch.softmax(logits_NE, dim=-1).sum(dim=0) / tokens
            losses["balance"] = self.plugin.balance_weight * self.plugin.experts * (load_E * mean_E).sum()
        if self.plugin.z_weight > 0.0:
            losses["router_z"] = self.plugin.z_weight * torch.logsumexp(logits_NE, dim=-1).square().sum() / tokens
        return Aux(losses=losses, stats={"load": load_E})


class Experts(nn.Module):
    """All experts' weights, stacked."""

    def __init__(self, plugin: Moe, width: int) -> None:
        super().__init__()
        inner = inner_width(plugin.ratio * width / plugin.experts)
        self.activation = ACTIVATIONS[plugin.activation]
        self.up_EDF = nn.Parameter(torch.empty(plugin.experts, width, inner))
        self.up_bias_EF = nn.Parameter(torch.empty(plugin.experts, inner))
        self.down_EFD = nn.Parameter(torch.empty(plugin.experts, inner, width))
        self.down_bias_ED = nn.Parameter(torch.empty(plugin.experts, width))
        self.dropout = Dropout(plugin.dropout)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each expert starts as two linear layers of PyTorch do: U(-1, 1) / sqrt(inputs)."""
        for weight, bias in ((self.up_EDF, self.up_bias_EF), (self.down_EFD, self.down_bias_ED)):
            bound = 1.0 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -bound, bound)
            nn.init.uniform_(bias, -bound, bound)

    def forward(self, rows_RD: Tensor, counts: list[int]) -> Tensor:
        """Each row after its expert, (R, D); `counts` says how many rows each expert owns, in order."""
        served = []
        for e, rows in enumerate(rows_RD.split(counts)):
            inner = self.activation(torch.addmm(self.up_bias_EF[e], rows, self.up_EDF[e]))
            served.append(torch.addmm(self.down_bias_ED[e], self.dropout(inner), self.down_EFD[e]))
        return torch.cat(served)


class Jitter(Stochastic):
    """Multiplies by U(1 - rate, 1 + rate) in training, on the module's own stream."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_ND: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x_ND
        return x_ND * (1.0 + self.rate * (2.0 * self.uniform(x_ND.shape, x_ND).to(x_ND.dtype) - 1.0))


def _by_expert(expert_NK: Tensor, experts: int) -> tuple[Tensor, list[int]]:
    """The order that sorts assignments by expert, and how many each expert gets.

    Counts are data. Meta tensors have none, so an even load is assumed there: FLOPs depend on the sum alone.
    """
    if expert_NK.is_meta:
        order = torch.empty(expert_NK.numel(), dtype=torch.long, device="meta")
        share, rest = divmod(expert_NK.numel(), experts)
        return order, [share + (e < rest) for e in range(experts)]
    flat = expert_NK.flatten()
    return flat.argsort(stable=True), torch.bincount(flat, minlength=experts).tolist()


class _Gather(torch.autograd.Function):
    """rows[order // k] whose gradient is a gather too, so that no sum depends on the order of threads."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, order: Tensor, inverse: Tensor, k: int) -> Tensor:
        ctx.save_for_backward(inverse)
        ctx.k = k
        return rows.index_select(0, order // k)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (inverse,) = ctx.saved_tensors
        per_row = grad.index_select(0, inverse).view(len(grad) // ctx.k, ctx.k, grad.shape[1])
        return per_row.sum(dim=1), None, None, None
