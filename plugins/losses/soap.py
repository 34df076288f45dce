"""Average precision from running averages of each positive. N items given, P positive ones, K negative ones."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor, nn

from core.kinds.loss import LossFacts, ScoreLoss
from core.params import knob, params
from plugins.losses._inputs import check_scores, chosen, mean


@final
@params
class Soap(ScoreLoss):
    """Average precision by stochastic optimisation: averages over the steps make up for few positives in a batch.

    With `l_ij = max(0, m - s_i + s_j)^2`, each positive i has `u1_i = mean_j [j in P] l_ij` and `u2_i = mean_j l_ij`
    over the items j of a batch, itself among them; the loss is `1 - mean_i u1_i / u2_i` (Qi et al. 2021,
    arXiv:2104.08736). A ratio of batch means is biased, so the module keeps averages for each positive over the steps,
    `u <- (1 - rate) u + rate * batch`, the first visit as it comes, and its gradient is `mean_i mean_j p_ij dl_ij`
    with `p_ij = (u1_i - u2_i [j in P]) / u2_i^2` (SOAP in the paper). `loss(...)` itself takes the batch as all
    there is.
    """

    shift_free = True

    margin: float = knob(1.0, "by how much a positive should stand above a negative, in units of the score", gt=0.0)
    rate: float = knob(0.1, "share of the newest batch in a running average", gt=0.0, le=1.0)

    def __call__(
        self, scores_N: Tensor, positive_N: Tensor, real_N: Tensor, items_N: Tensor | None = None
    ) -> dict[str, Tensor]:
        """`{"soap": scalar}` in [0, 1), float32 or wider; 0 without a positive or without a negative.

        Args:
            scores_N: logits.
            positive_N: bool.
            real_N: bool, False on padding.
            items_N: read by the module alone.

        Raises:
            ValueError: the arrays differ in shape, or labels are not bool.
        """
        return {"soap": _lost(self.means(scores_N, positive_N, real_N))}

    def means(self, scores_N: Tensor, positive_N: Tensor, real_N: Tensor) -> Tensor:
        """u1 and u2 - u1 of each positive, (P, 2): nothing is subtracted; u1 is above 0, as an item is near itself."""
        check_scores("soap", scores_N, positive_N, real_N)
        up_P, down_K = chosen(scores_N, real_N & positive_N), chosen(scores_N, real_N & ~positive_N)
        count = max(up_P.numel() + down_K.numel(), 1)
        sums = [(self.margin + x - up_P[:, None]).clamp(min=0).square().sum(1) for x in (up_P, down_K)]
        return torch.stack(sums, 1) / count

    def build(self, facts: LossFacts) -> SoapAverages:
        """Running averages for `facts.items` items, 8 bytes each.

        Raises:
            ValueError: the number of items is not known.
        """
        if facts.items is None:
            raise ValueError(
                "soap keeps two averages an item and was not told how many items the training split has: "
                "give LossFacts(items=...), or take smooth_ap, which needs none"
            )
        return SoapAverages(self, facts.items)


class SoapAverages(nn.Module):
    """The module of `Soap`: averages of each item in training, and the pure loss in evaluation."""

    def __init__(self, loss: Soap, items: int) -> None:
        super().__init__()
        self.loss = loss
        self.running: Tensor
        self.register_buffer("running", torch.zeros(items, 2))

    def forward(
        self, scores_N: Tensor, positive_N: Tensor, real_N: Tensor, items_N: Tensor | None = None
    ) -> dict[str, Tensor]:
        """The terms of `Soap`; in training the averages of the positives move first.

        Raises:
            ValueError: training without `items_N`, or a positive whose number is not one of the split's.
        """
        if not self.training:
            return self.loss(scores_N, positive_N, real_N)
        if items_N is None or items_N.shape != scores_N.shape:
            given = "none were given" if items_N is None else f"they are {tuple(items_N.shape)}"
            raise ValueError(f"soap takes the number of each of {tuple(scores_N.shape)} items in training, and {given}")
        means_P2 = self.loss.means(scores_N, positive_N, real_N)
        items_P = items_N if items_N.is_meta else items_N[real_N & positive_N]
        if not items_P.is_meta and ((items_P < 0) | (items_P >= len(self.running))).any():
            raise ValueError(f"items are numbered 0 to {len(self.running) - 1}; got {items_P.min()} to {items_P.max()}")
        moved_P2 = self._move(items_P, means_P2.detach())
        # The value at the averages, the slope of the batch.
        return {"soap": _lost(moved_P2 + (means_P2 - means_P2.detach()))}

    @torch.no_grad()
    def _move(self, items_P: Tensor, means_P2: Tensor) -> Tensor:
        """The averages of positives after a batch; an item that stands there twice counts as the mean of both."""
        same_PP = (items_P[:, None] == items_P).to(means_P2.dtype)
        batch_P2 = (same_PP[:, :, None] * means_P2).sum(1) / same_PP.sum(1, keepdim=True)
        old_P2 = self.running[items_P].to(batch_P2.dtype)
        moved_P2 = torch.where(old_P2[:, :1] > 0, torch.lerp(old_P2, batch_P2, self.loss.rate), batch_P2)
        self.running[items_P] = moved_P2.to(self.running.dtype)
        return moved_P2


def _lost(means_P2: Tensor) -> Tensor:
    near_P, far_P = means_P2.unbind(1)
    return mean(far_P / (near_P + far_P))
