"""Layers that are told a condition by their norms. B sets, N tokens, D width."""

from __future__ import annotations

from typing import Literal

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.kinds import Aux, Layout, Parts
from core.train.streams import Dropout
from plugins.backbones._affine import Affine, Beside
from plugins.backbones._contrast import Contrast
from plugins.backbones._kept import Kept, once, part

EPS = 1e-6
"""of norms that a condition scales"""

Norm = Literal["layer", "rms"]


class Steered(nn.Module):
    """norm(y) (1 + scale) + shift, and the gate of what is made of it; all three are affine in silu(c).

    adaLN-Zero of Peebles and Xie 2023, arXiv:2212.09748: at first all three are 0, so that a layer begins as the
    identity. The norm has no scale of its own.
    """

    def __init__(self, width: int, norm: Norm, zero: bool, *, gated: bool = True) -> None:
        super().__init__()
        self.norm: nn.Module = (
            nn.LayerNorm(width, eps=EPS, elementwise_affine=False)
            if norm == "layer"
            else nn.RMSNorm(width, eps=EPS, elementwise_affine=False)
        )
        self.parts = 3 if gated else 2
        self.steer = Affine(width, self.parts * width, zero=zero)

    def forward(self, y_BND: Tensor, c_BD: Tensor) -> tuple[Tensor, Tensor | None]:
        """The modulated norm (B, N, D), and the gate (B, 1, D) where there is one."""
        scale, shift, *gate = self.steer(F.silu(c_BD))[:, None].chunk(self.parts, -1)
        return torch.addcmul(shift, self.norm(y_BND), 1 + scale), gate[0] if gate else None


@attrs.frozen
class Sublayers:
    """Makes what a block is put together from, of what the system chose."""

    parts: Parts
    norm: Norm
    zero: bool
    """norms are steered and gates open from 0"""

    def reads(self, attention: nn.Module | None = None, *, control: bool = False) -> Reads:
        """A sublayer that reads, by the chosen attention or another, the set or the control cell."""
        return Reads(self, attention or self.parts.attention.build(self.parts.width), control)

    def thinks(self) -> Thinks:
        """A sublayer with the chosen feed-forward network."""
        return Thinks(self)


class Reads(nn.Module):
    """y + gate f(modulated norm of y), f an attention over the set, or over the control cell's tokens.

    Args:
        attention: an attention layer, or a `Contrast`.
        control: whether it is shown the control cell.
    """

    def __init__(self, how: Sublayers, attention: nn.Module, control: bool) -> None:
        super().__init__()
        self.control = control
        self.steered = Steered(how.parts.width, how.norm, how.zero)
        self.attention = attention
        self.dropout = Dropout(how.parts.dropout)
        self.residual = how.parts.residual.build(how.parts.width)

    def forward(
        self,
        y_BND: Tensor,
        control_BND: Tensor | None,
        c_BD: Tensor,
        real_BN: Tensor | None,
        kept: Kept | None = None,
    ) -> tuple[Tensor, Aux]:
        n_BND, gate_B1D = self.steered(y_BND, c_BD)
        if isinstance(self.attention, Contrast):
            read_BND = self.attention(n_BND, control_BND, real_BN, kept)
        else:
            context = control_BND if self.control else None
            layout = Layout(real_BQ=real_BN)
            read_BND = self.attention(n_BND, context_BSD=context, real_BS=real_BN, layout=layout)
        return self.residual(y_BND, gate_B1D * self.dropout(read_BND)), Aux()


class Thinks(nn.Module):
    """y + gate ffn(modulated norm of y)."""

    def __init__(self, how: Sublayers) -> None:
        super().__init__()
        self.steered = Steered(how.parts.width, how.norm, how.zero)
        self.ffn = how.parts.ffn.build(how.parts.width)
        self.dropout = Dropout(how.parts.dropout)
        self.residual = how.parts.residual.build(how.parts.width)

    def forward(
        self,
        y_BND: Tensor,
        control_BND: Tensor | None,
        c_BD: Tensor,
        real_BN: Tensor | None,
        kept: Kept | None = None,
    ) -> tuple[Tensor, Aux]:
        n_BND, gate_B1D = self.steered(y_BND, c_BD)
        thought_BND, aux = self.ffn(n_BND, real_BN)
        return self.residual(y_BND, gate_B1D * self.dropout(thought_BND)), aux


class Block(nn.Module):
    """What reads and thinks, one after the other; parts are named for parameters and losses."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)

    def forward(
        self,
        y_BND: Tensor,
        control_BND: Tensor | None,
        c_BD: Tensor,
        real_BN: Tensor | None,
        kept: Kept | None = None,
    ) -> tuple[Tensor, Aux]:
        losses: dict[str, Tensor] = {}
        stats: dict[str, Tensor] = {}
        for place, sublayer in self.parts.items():
            y_BND, aux = sublayer(y_BND, control_BND, c_BD, real_BN, part(kept, place))
            losses |= {_told(name, place, losses): value for name, value in aux.losses.items()}
            stats |= {_told(name, place, stats): value for name, value in aux.stats.items()}
        return y_BND, Aux(losses, stats)


class GeneSteered(nn.Module):
    """x + gate (LN(x) (1 + scale) + shift), all three affine in silu of the gene's embedding.

    scDFM scales by `scale` itself. Here it is 1 + scale: as all three start at 0, the product of two zeros would never
    get a gradient.
    """

    def __init__(self, width: int, zero: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=EPS, elementwise_affine=False)
        self.steer = Affine(width, 3 * width, zero=zero)

    def forward(self, x_BND: Tensor, gene_BND: Tensor, kept: Kept | None = None) -> Tensor:
        """Tokens, told their genes, (B, N, D); `gene_BND` is (1, N, D) where all sets have the same genes."""
        # Genes that differ between sets would take three times the room of the tokens.
        kept = kept if len(gene_BND) == 1 else None
        shift, gate, scale = once(kept, "steer", lambda: self.steer(F.silu(gene_BND))).chunk(3, -1)
        return torch.addcmul(x_BND, gate, torch.addcmul(shift, self.norm(x_BND), 1 + scale))


class Adapter(nn.Module):
    """f = lrelu(W_2 lrelu(W_1 [x; p])), p the perturbation: in place of x, as in scDFM, or added to it."""

    def __init__(self, width: int, dropout: float, added: bool) -> None:
        super().__init__()
        self.added = added
        self.first, self.second = Beside(width), Affine(width, width)
        self.dropout = Dropout(dropout)

    def forward(self, x_BND: Tensor, p_BD: Tensor) -> Tensor:
        inner = self.dropout(F.leaky_relu(self.first(x_BND, p_BD)))
        out = F.leaky_relu(self.second(inner))
        return x_BND + out if self.added else out


class Layer(nn.Module):
    """Tokens are told their genes, then the perturbation, and go through a block."""

    def __init__(self, genes: nn.Module, adapter: nn.Module | None, block: Block) -> None:
        super().__init__()
        self.genes, self.adapter, self.block = genes, adapter, block

    def forward(
        self,
        x_BND: Tensor,
        control_BND: Tensor,
        gene_BND: Tensor,
        p_BD: Tensor,
        c_BD: Tensor,
        real_BN: Tensor | None,
        kept: Kept | None = None,
    ) -> tuple[Tensor, Aux]:
        x_BND = self.genes(x_BND, gene_BND, part(kept, "genes"))
        if self.adapter is not None:
            x_BND = self.adapter(x_BND, p_BD)
        return self.block(x_BND, control_BND, c_BD, real_BN, part(kept, "block"))


def _told(name: str, place: str, taken: dict[str, Tensor]) -> str:
    """What a value is called where an earlier part of the block has one of that name."""
    return f"{name} of {place}" if name in taken else name
