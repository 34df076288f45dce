"""A mixture of experts.

B batch, T tokens, N real tokens of the whole batch, D width, E experts, K experts a token, F inner width of an expert
(with swiglu its first map makes 2F channels), R = N * K rows sorted by expert.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from core.kinds.ffn import FFN, Aux, RoutedLayer
from core.nn.overflow import saturated
from core.params import knob, params
from core.train.ranks import total
from core.train.streams import Dropout
from plugins.ffn._grouped import fetch, serve, serve_and_combine
from plugins.ffn._router import Choice, Jitter, Router, Timetable, timetable
from plugins.ffn.dense import ACTIVATIONS, DenseLayer, inner_width
from plugins.ffn.swiglu import MATCH, SwigluLayer, swiglu


@params
class Moe(FFN):
    """Top-k routed mixture of experts: each token is served by its `top_k` best experts only.

    y = sum over the chosen i of w_i E_i(x), w = softmax over the chosen logits of W_r x (Shazeer et al. 2017,
    arXiv:1701.06538, eq. 3 and 5), plus the shared experts of x where there are any (Dai et al.
    2024, arXiv:2401.06066, eq. 9). All experts together are as wide as a dense network of the same `ratio`, so that
    arms have equal size and a token pays its own experts' share of it.

    With a `capacity` an expert serves in training the tokens that give it the highest weights (Riquelme et al. 2021,
    arXiv:2106.05974, section 4; between equals the earlier token), and a token gets zeros from an expert that has no
    room for it, its other weights unchanged. In evaluation no token is dropped: there it would depend on its
    neighbours.
    """

    routed: ClassVar[bool] = True

    experts: int = knob(4, "number of expert networks", ge=1)
    top_k: int = knob(2, "experts used per token", ge=1, source="Shazeer et al. 2017, eq. 5")
    shared: int = knob(0, "further experts that serve every token", ge=0, source="Dai et al. 2024, arXiv:2401.06066")
    ratio: float = knob(4.0, "inner width of all experts together over width", gt=0.0)
    activation: Literal["gelu", "relu", "silu", "swiglu"] = knob(
        "gelu", "inside an expert; swiglu is as in the network of that name: gated, without biases, of equal size"
    )
    dropout: float = knob(0.0, "share of inner channels dropped in training", ge=0.0, lt=1.0)
    jitter: float = knob(
        0.0,
        "in training the router's input is multiplied by U(1 - jitter, 1 + jitter)",
        ge=0.0,
        lt=1.0,
        source="Fedus et al. 2022, arXiv:2101.03961, appendix C",
    )
    noise: float = knob(
        0.0,
        "scale of learned noise on the logits in training; 0: none",
        ge=0.0,
        source="Shazeer et al. 2017, eq. 4",
    )
    capacity: float | None = knob(
        None,
        "tokens that an expert serves at most in training, in even shares; none: no limit",
        gt=0.0,
        source="Fedus et al. 2022, eq. 3",
    )
    balance: Literal["loss", "bias", "none"] = knob(
        "loss", "how the load of experts is balanced", acts="top_k!=experts"
    )
    balance_weight: float = knob(
        0.01,
        "weight of the balance loss",
        gt=0.0,
        source="Fedus et al. 2022, eq. 4",
        acts="balance=loss and top_k!=experts",
    )
    balanced: Literal["chosen", "first"] = knob(
        "chosen",
        "what the balance loss counts as an expert's load: all tokens that chose it, or those that want it most",
        source="first: Fedus et al. 2022, eq. 5",
        acts="balance=loss and top_k!=experts and top_k!=1",
    )
    bias_rate: float = knob(
        0.004,
        "with balance by bias, how far a logit's offset moves a step; as a sigmoid's slope is up to 1/4, 0.001 there",
        gt=0.0,
        source="Wang et al. 2024, arXiv:2408.15664, algorithm 1",
        acts="balance=bias and top_k!=experts",
    )
    z_weight: float = knob(
        0.0,
        "weight of the router z-loss, which keeps logits small",
        ge=0.0,
        source="Zoph et al. 2022, arXiv:2202.08906, eq. 5",
    )

    def __attrs_post_init__(self) -> None:
        if not 1 <= self.top_k <= self.experts:
            raise ValueError(f"top_k must be between 1 and experts={self.experts}, got {self.top_k}")
        if self.experts == 1 and self.jitter and not self.z_weight:
            raise ValueError(
                f"jitter = {self.jitter:g} does nothing: one expert leaves the router no choice; leave it out"
            )
        if self.top_k == self.experts and self.capacity is not None and self.capacity >= 1:
            raise ValueError(
                f"capacity = {self.capacity:g} does nothing: each of {self.experts} experts serves every token, "
                "which is its even share; leave it out, or choose one below 1"
            )

    def build(self, width: int) -> MoeLayer:
        return MoeLayer(self, width)

    def params(self, width: int) -> int:
        routed = self.experts * (width * (2 if self.noise > 0.0 else 1) + self._size(width, 1))
        return routed + (self._size(width, self.shared) if self.shared else 0)

    def flops(self, width: int, tokens: int) -> int:
        matrices = 3 if self.activation == "swiglu" else 2
        served = matrices * self.inner(width) * (self.top_k + self.shared)
        return 2 * tokens * width * (self.experts + served)

    def inner(self, width: int) -> int:
        """Inner width of one expert."""
        share = MATCH if self.activation == "swiglu" else 1.0
        return inner_width(share * self.ratio * width / (self.experts + self.shared))

    def _size(self, width: int, experts: int) -> int:
        """Parameters of one network that is as wide as so many experts."""
        inner = experts * self.inner(width)
        return 3 * width * inner if self.activation == "swiglu" else 2 * width * inner + inner + width


class MoeLayer(RoutedLayer, nn.Module):
    """The module of `Moe`."""

    def __init__(self, plugin: Moe, width: int) -> None:
        super().__init__()
        self.plugin = plugin
        self.router = Router(width, plugin.experts, plugin.top_k, plugin.balance, plugin.bias_rate, plugin.noise)
        self.jitter = Jitter(plugin.jitter)
        self.experts = Experts(plugin, width)
        self.shared: nn.Module | None = None
        if plugin.shared and plugin.activation == "swiglu":
            self.shared = SwigluLayer(width, plugin.shared * plugin.inner(width), plugin.dropout)
        elif plugin.shared and plugin.activation != "swiglu":
            self.shared = DenseLayer(width, plugin.shared * plugin.inner(width), plugin.activation, plugin.dropout)

    def forward(self, x_BTD: Tensor, real_BT: Tensor | None = None) -> tuple[Tensor, Aux]:
        """Tokens after their experts, (B, T, D), of the dtype of `x_BTD`.

        `Aux.losses` has `balance` and `router_z`, weighted. Unweighted, `balance` is 1 where the router is even and
        E / top_k where a sure router sends all tokens to the same experts (E where first choices count); an unsure one
        can lie below 1, as load and probability need not agree. `Aux.stats` has `load` (E,), the share of assignments
        that chose each expert, and with a capacity `dropped`, the share of assignments that found no room.

        Args:
            x_BTD: tokens.
            real_BT: bool, False on padding, which is not routed, not counted, and comes out as zeros; None where
                nothing is padded.
        """
        every_D = saturated(x_BTD).flatten(0, 1)
        # Which tokens are real is data, and meta tensors have none: there all are taken, for shapes and FLOPs.
        keep_N = None if real_BT is None or x_BTD.is_meta else real_BT.flatten().nonzero().squeeze(1)
        x_ND = every_D if keep_N is None else every_D.index_select(0, keep_N)
        wide = torch.promote_types(x_ND.dtype, torch.float32)
        choice = self.router(self.jitter(x_ND.to(wide)))
        plan = timetable(choice, self.plugin.experts, self.plugin.capacity if self.training else None)
        if self.training:
            self.router.count(plan.counts_E)
        out_ND = self.experts(x_ND, choice.weight_NK, plan).to(x_BTD.dtype)
        out_ND = saturated(out_ND)
        if keep_N is not None:
            out_ND = torch.zeros_like(every_D).index_copy(0, keep_N, out_ND)
        out_BTD = out_ND.view_as(x_BTD)
        if self.shared is not None:
            out_BTD = out_BTD + self.shared(x_BTD, real_BT)[0]
        return out_BTD, self._aux(choice, plan)

    def idle(self) -> int:
        """The parameters of the experts that do not serve a token."""
        own = sum(p.numel() for p in self.experts.parameters())
        return own - own * self.plugin.top_k // self.plugin.experts

    def _aux(self, choice: Choice, plan: Timetable) -> Aux:
        plugin, logits_NE = self.plugin, choice.logits_NE
        # One vector, as processes that share the batch add theirs up: what is told is of the whole batch.
        own = [logits_NE.new_full((1,), float(len(logits_NE))), plan.counts_E.to(logits_NE.dtype)]
        if plugin.balance == "loss":
            own.append(torch.softmax(logits_NE, dim=-1).sum(dim=0))
            own += [_first(choice, plugin.experts)] if plugin.balanced == "first" else []
        if plugin.z_weight > 0.0:
            own.append(torch.logsumexp(logits_NE, dim=-1).square().sum()[None])
        if plugin.capacity is not None:
            own.append(logits_NE.new_full((1,), plan.dropped * len(logits_NE)))
        tokens_1, counts_E, *rest = total(torch.cat(own)).split([len(x) for x in own])
        tokens = tokens_1[0].detach().clamp(min=1)
        load_E = counts_E.detach() / (tokens * plugin.top_k)
        losses, stats = {}, {"load": load_E}
        if plugin.balance == "loss":
            mean_E = rest.pop(0) / tokens
            told_E = rest.pop(0).detach() / tokens if plugin.balanced == "first" else load_E
            losses["balance"] = plugin.balance_weight * plugin.experts * (told_E * mean_E).sum()
        if plugin.z_weight > 0.0:
            losses["router_z"] = plugin.z_weight * rest.pop(0)[0] / tokens
        if plugin.capacity is not None:
            stats["dropped"] = rest.pop(0)[0].detach() / tokens
        return Aux(losses=losses, stats=stats)


def _first(choice: Choice, experts: int) -> Tensor:
    """How many tokens want an expert most, (E,)."""
    first_N = choice.expert_NK[:, 0]
    if first_N.is_meta:
        return choice.logits_NE.new_empty(experts)
    return torch.bincount(first_N, minlength=experts).to(choice.logits_NE.dtype)


class Experts(nn.Module):
    """All experts' weights, stacked."""

    def __init__(self, plugin: Moe, width: int) -> None:
        super().__init__()
        count, inner, gated = plugin.experts, plugin.inner(width), plugin.activation == "swiglu"
        outer = 2 * inner if gated else inner
        self.activation = swiglu if plugin.activation == "swiglu" else ACTIVATIONS[plugin.activation]
        self.up_EDF = nn.Parameter(torch.empty(count, width, outer))
        self.up_bias_EF = None if gated else nn.Parameter(torch.empty(count, outer))
        self.down_EFD = nn.Parameter(torch.empty(count, inner, width))
        self.down_bias_ED = None if gated else nn.Parameter(torch.empty(count, width))
        self.dropout = Dropout(plugin.dropout, over="tokens")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Each expert starts as two linear layers of PyTorch do: U(-1, 1) / sqrt(inputs)."""
        for weight, bias in ((self.up_EDF, self.up_bias_EF), (self.down_EFD, self.down_bias_ED)):
            bound = 1.0 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -bound, bound)
            if bias is not None:
                nn.init.uniform_(bias, -bound, bound)

    def forward(self, x_ND: Tensor, weight_NK: Tensor, plan: Timetable) -> Tensor:
        """The weighted sum of each token's experts, (N, D), of the dtype of the weights."""
        places = (plan.source_R, plan.target_NK)
        inner_RF = serve(saturated(fetch(x_ND, *places)), self.up_EDF, self.up_bias_EF, plan.spans)
        inner_RF = saturated(self.dropout(self.activation(saturated(inner_RF))))
        return serve_and_combine(inner_RF, self.down_EFD, self.down_bias_ED, weight_NK, *places, plan.spans)
