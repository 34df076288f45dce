"""How a gate's scores are laid out. B batch, Q tokens, D width, H heads, V value width of a head, R scores a token."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from core.nn.overflow import held

Per = Literal["token", "head", "channel"]
Start = Literal["linear", "zero"]


def scores_a_token(per: Per, heads: int, head_width: int) -> int:
    """R: one score for the whole token, one for each head, or one for each channel of each head."""
    return {"token": 1, "head": heads, "channel": heads * head_width}[per]


def by_head(scores_BQR: Tensor, per: Per, heads: int) -> Tensor:
    """Scores as the kind wants them: (B, Q, H), or (B, Q, H, V) where `per` is "channel", ordered by head first."""
    if per == "channel":
        return scores_BQR.unflatten(-1, (heads, -1))
    return scores_BQR.expand(-1, -1, heads)


def scale(out_BHQV: Tensor, scores: Tensor) -> Tensor:
    """What was read, times the scores (B, Q, H) or (B, Q, H, V), in the dtype that was read."""
    scores_BQHV = scores if scores.ndim == 4 else scores.unsqueeze(-1)
    return held(lambda read: read * scores_BQHV.transpose(1, 2).to(read.dtype), out_BHQV)
