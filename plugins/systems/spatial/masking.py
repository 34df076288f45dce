"""Masked diffusion: a share of the noisy entries is hidden, and the network is asked for their clean values.

B sets, N cells, G genes, P axes of space, F numbers of a cell.
"""

from __future__ import annotations

from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from core.kinds import Tree, ValueLoss
from core.params import knob, params

ACTS = "shape!=none"


@final
@params
class Masking:
    """Which entries are hidden in training, and what their reconstruction weighs.

    Hidden are genes of each cell and whole cells' positions: an exact number, `ratio` times how many there are,
    rounded, and less where fewer than `min_visible` would stay. Every set has masks of its own.
    """

    shape: Literal["none", "random", "block", "structured"] = knob(
        "none",
        "random entries; a block: neighbouring genes, the same for all cells of a set, and the cells nearest to one "
        "cell; structured: the noisy values of largest magnitude",
    )
    expression: float = knob(0.4, "share of the genes of each cell that is hidden", ge=0.0, le=1.0, acts=ACTS)
    position: float = knob(0.33, "share of the cells whose position is hidden", ge=0.0, le=1.0, acts=ACTS)
    probability: float = knob(0.5, "share of training batches that are masked", gt=0.0, le=1.0, acts=ACTS)
    min_visible: int = knob(10, "fewest genes of a cell, and positions of a set, that stay", ge=0, acts=ACTS)
    growth: int = knob(0, "training batches over which the shares grow from 0; 0: in force at once", ge=0, acts=ACTS)
    weight: float = knob(0.5, "weight of the losses on hidden entries", ge=0.0, acts=ACTS)

    def ratio(self, modality: str, step: int) -> float:
        """The share that is hidden at a training batch, a function of its number alone."""
        whole = self.expression if modality == "expression" else self.position
        return whole * min(1.0, (step + 1) / self.growth) if self.growth else whole

    def draw(self, noisy: Tree, place_BNP: Tensor, real_BN: Tensor, step: int, generator: torch.Generator) -> Tree:
        """Masks of a training batch, True where hidden.

        Args:
            noisy: the modalities that may be masked, as the path gives them.
            place_BNP: clean positions, where blocks of cells are cut out.
            real_BN: bool, False on padding, which is never hidden.
            step: number of the training batch.
            generator: of the stream of masks, keyed by `step`.

        Returns:
            `expression` (B, N, G) and `position` (B, N, 1), all axes of a cell alike; those of `noisy` only.
        """
        masked = bool(torch.rand((), generator=generator) < self.probability)
        found = {}
        if "expression" in noisy:
            ratio = self.ratio("expression", step) * masked
            found["expression"] = self._genes(noisy["expression"], real_BN, ratio, generator)
        if "position" in noisy:
            ratio = self.ratio("position", step) * masked
            found["position"] = self._cells(noisy["position"], place_BNP, real_BN, ratio, generator)[..., None]
        return found

    def _genes(self, x_BNG: Tensor, real_BN: Tensor, ratio: float, generator: torch.Generator) -> Tensor:
        sets, _, genes = x_BNG.shape
        count = max(0, min(round(ratio * genes), genes - self.min_visible))
        if self.shape == "block":
            first_B1 = torch.randint(genes - count + 1, (sets, 1), generator=generator).to(x_BNG.device)
            gene_G = torch.arange(genes, device=x_BNG.device)
            hidden = ((gene_G >= first_B1) & (gene_G < first_B1 + count))[:, None].expand_as(x_BNG)
        else:
            score_BNG = self._score(x_BNG, x_BNG.abs(), generator)
            chosen = score_BNG.topk(count, dim=-1).indices
            hidden = torch.zeros_like(x_BNG, dtype=torch.bool).scatter_(-1, chosen, value=True)
        return hidden & real_BN[..., None]

    def _cells(
        self, x_BNP: Tensor, place_BNP: Tensor, real_BN: Tensor, ratio: float, generator: torch.Generator
    ) -> Tensor:
        cells_B1 = real_BN.sum(1, keepdim=True)
        count_B1 = torch.minimum((ratio * cells_B1).round(), cells_B1 - self.min_visible).clamp_min(0)
        if self.shape == "block":
            free_BN = torch.rand(real_BN.shape, generator=generator).to(x_BNP.device)
            middle_B = torch.where(real_BN, free_BN, -1.0).argmax(1)
            sets_B = torch.arange(len(middle_B), device=x_BNP.device)
            score_BN = -torch.linalg.vector_norm(place_BNP - place_BNP[sets_B, middle_B][:, None], dim=-1)
        else:
            score_BN = self._score(real_BN, torch.linalg.vector_norm(x_BNP, dim=-1), generator)
        order_BN = torch.where(real_BN, score_BN, -torch.inf).argsort(dim=1, descending=True, stable=True)
        rank_BN = torch.empty_like(order_BN).scatter_(
            1, order_BN, torch.arange(order_BN.shape[1], device=x_BNP.device).expand_as(order_BN)
        )
        return (rank_BN < count_B1) & real_BN

    def _score(self, like: Tensor, magnitude: Tensor, generator: torch.Generator) -> Tensor:
        """What is hidden first: the largest, or whatever chance says."""
        return magnitude if self.shape == "structured" else torch.rand(like.shape, generator=generator).to(like.device)


class Tokens(nn.Module):
    """What the network sees in place of hidden entries: a learned number a gene and an axis.

    `Tokens.into` gives a network the tokens as a module of its own and a hook that puts them in place before each
    call. A hook and no wrapper, so that the network's parameters keep the names that their first values hang on, and
    arms with and without masking start alike. The network is then called with `masked`, masks by modality.
    """

    def __init__(self, sizes: dict[str, int]) -> None:
        super().__init__()
        for modality, size in sizes.items():
            self.register_parameter(modality, nn.Parameter(torch.empty(size)))
        self.reset_parameters()

    @staticmethod
    def into(network: nn.Module, sizes: dict[str, int]) -> None:
        """Let a network see tokens in place of hidden entries of the modalities in `sizes`."""
        network.add_module("tokens", Tokens(sizes))
        network.register_forward_pre_hook(_put, with_kwargs=True)

    def reset_parameters(self) -> None:
        """Small and without a sign, N(0, 0.02^2)."""
        for value_F in self.parameters():
            nn.init.normal_(value_F, std=0.02)

    def forward(self, fields: Tree, masked: Tree) -> Tree:
        """The fields with tokens where they are masked."""
        return fields | {m: torch.where(hidden, self.get_parameter(m), fields[m]) for m, hidden in masked.items()}


def _put(network: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    masked = named.pop("masked", None)
    if masked is not None:
        fields, *rest = given
        given = (network.get_submodule("tokens")(fields, masked), *rest)
    return given, named


def masked_losses(
    modality: str, losses: tuple[ValueLoss, ...], predicted: Tensor, data: Tensor, hidden: Tensor, real_BN: Tensor
) -> dict[str, Tensor]:
    """The losses of a modality on hidden entries alone, against the clean values; no gradient reaches other entries.

    Positions are compared among the cells whose positions are hidden, so that a loss of distances stays blind to the
    frame. Of expression, visible entries are set to the truth, and the loss counts for the hidden share.

    Args:
        modality: `expression` or `position`.
        losses: chosen for the modality.
        predicted: (B, N, F); for positions F may be that of an embedding.
        data: (B, N, F).
        hidden: the mask (B, N, F) or, for positions, (B, N, 1).
        real_BN: bool, False on padding.
    """
    if modality == "position":
        return {k: v for loss in losses for k, v in loss(predicted, data, real_BN & hidden[..., 0]).items()}
    count = hidden.sum()
    scale = torch.where(count > 0, real_BN.sum() * hidden.shape[-1] / count.clamp_min(1), 0.0)
    mixed = torch.where(hidden, predicted, data)
    return {k: scale * v for loss in losses for k, v in loss(mixed, data, real_BN).items()}
