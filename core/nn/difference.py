"""What differential attentions share: how much of the second map of weights is taken off."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Lambda(nn.Module):
    """The share of the second map that is taken off, one number for all heads.

    lambda = exp(a_1 . b_1) - exp(a_2 . b_2) + lambda_0 with learned a, b of the head width (Ye et al. 2024,
    arXiv:2410.05258, eq. 2).
    """

    def __init__(self, head: int, initial: float) -> None:
        super().__init__()
        self.initial = initial
        self.query_1, self.key_1, self.query_2, self.key_2 = (nn.Parameter(torch.empty(head)) for _ in range(4))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """N(0, 0.1^2): lambda starts near its initial value (Ye et al. 2024)."""
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.1)

    def forward(self) -> Tensor:
        """lambda, a scalar in float32 or wider."""
        wide = torch.promote_types(self.query_1.dtype, torch.float32)
        first = (self.query_1.to(wide) * self.key_1.to(wide)).sum().exp()
        return first - (self.query_2.to(wide) * self.key_2.to(wide)).sum().exp() + self.initial
