"""The network of a cell's response to perturbation: its genes are the tokens.

B cells, N genes of a cell, L numbers of a latent, P perturbations together, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.kinds import Aux, Card, Parts, Residual
from core.nn.padding import blanked, hiding
from core.nn.recompute import recomputed
from plugins.backbones._adaln import Adapter, Block, GeneSteered, Layer, Steered, Sublayers
from plugins.backbones._affine import Affine, Beside
from plugins.backbones._frame import Frame
from plugins.backbones._gene_tokens import Clock, Fused, Genes, Latents, Perturbations, Values
from plugins.backbones._kept import Kept, once, part

STREAMS = ("expression", "latent")


class Response(nn.Module):
    """Noisy expression and latents of a cell's genes, each at its own time, beside its control cell, to raw outputs.

    g = gene embedding, p = perturbation, c = sum of the streams' times (+ p), v = control's values + g;
    x = fused [expression's values + g; v] + embedded latent + (A g) * (B p); each layer tells x its genes and p and
    goes through a block, steered by c, that may read v; a decoder for each stream, beside a read-out of the product.

    A stream that is not among `Parts.outputs` is neither read nor predicted and has no parameters.

    Args:
        block: makes the block of the i-th layer.

    Raises:
        ValueError: nothing, or something else than `expression` and `latent`, is to be predicted; the data has no
            perturbations; layers could never open.
    """

    def __init__(self, card: Card, parts: Parts, frame: Frame, block: Callable[[int], Block]) -> None:
        super().__init__()
        width, drop = parts.width, parts.dropout
        self.streams = tuple(stream for stream in STREAMS if stream in parts.outputs)
        if not self.streams or len(self.streams) < len(parts.outputs):
            raise ValueError(
                f"this backbone predicts expression, latent or both for each gene of a cell, and was asked for "
                f"{', '.join(parts.outputs) or 'nothing'}"
            )
        if "perturbations" not in card.sizes:
            raise ValueError(
                f"this backbone is told perturbations, and the data {card.name} has none; take data of a screen, or "
                "another backbone"
            )
        if frame.zero and _closed(parts.residual):
            raise ValueError(
                "the residual starts every layer at 0, and so does backbone.frame.zero: the product of both would "
                "never get a gradient; take residual = plain, or backbone.frame.zero = false"
            )
        self.recompute, self.condition = parts.recompute, frame.condition
        self.genes = Genes(card.sizes["genes"], width, frame.heads, frame.neighbours, drop)
        self.perturbations = Perturbations(
            card.sizes["perturbations"], card.sizes["genes"], width, frame.combine, frame.average_control
        )
        self.times = nn.ModuleDict({stream: Clock(width, frame.time_scale) for stream in self.streams})
        self.values = nn.ModuleDict({"control": Values(width, drop)})
        if "expression" in self.streams:
            self.values["expression"] = Values(width, drop)
        self.fused = Fused(width, len(self.values))
        if "latent" in self.streams:
            self.latents = Latents(parts.outputs["latent"], frame.latent_bottleneck, width, frame.latent_act)
        self.product = (
            Product(width, {m: parts.outputs[m] for m in self.streams}, frame.zero) if frame.product else None
        )
        self.layers = nn.ModuleList(
            Layer(
                GeneSteered(width, frame.zero),
                None if frame.adapter == "none" else Adapter(width, drop, frame.adapter == "add"),
                block(i),
            )
            for i in range(parts.depth)
        )
        self.decoders = nn.ModuleDict()
        if "expression" in self.streams:
            self.decoders["expression"] = ExpressionDecoder(width, parts.outputs["expression"], frame.zero)
        if "latent" in self.streams:
            self.decoders["latent"] = LatentDecoder(parts, frame)

    def set_neighbours(self, table_Vk: np.ndarray | Tensor) -> None:
        """Say which genes each gene's embedding reads besides its own, as `core.nn.correlated` finds them.

        Raises:
            ValueError: a table of other genes, or the backbone has room for no neighbour.
        """
        if self.genes.reading is None:
            raise ValueError("this backbone was built for no neighbours; set backbone.frame.neighbours above 0")
        self.genes.reading.set_neighbours(table_Vk)

    def set_perturbed_genes(self, gene_K: np.ndarray | Tensor) -> None:
        """Say which gene each perturbation is, so that it shares that gene's embedding.

        Args:
            gene_K: code of the gene by code of the perturbation, -1 where it is none.

        Raises:
            ValueError: codes of another vocabulary.
        """
        self.perturbations.set_genes(gene_K)

    def forward(
        self,
        fields: dict[str, Tensor],
        times: dict[str, Tensor],
        real_BN: Tensor,
        streams: Collection[str] | None = None,
        kept: Kept | None = None,
        still: Collection[str] = (),
    ) -> tuple[dict[str, Tensor], Aux]:
        """Raw outputs by stream, and what the layers say beside them, named by the layer.

        Args:
            fields: `expression` (B, N, 1) and `latent` (B, N, L), noisy, of the streams that are predicted; `control`
                (B, N, 1); `gene` (B, N), codes; `perturbation` (B, P), codes, 0 for none; `told` (B,) bool, False where
                the perturbation is not to be known, all are told without it.
            times: (B,) in [0, 1] of each stream; 1 is clean.
            real_BN: bool, False on padding, which may hold anything.
            streams: of which outputs are wanted; what the others alone would take is not computed. None: all.
            kept: a dictionary of the caller's, empty in the first call of a solver: what is made of genes, control
                cells and perturbations is put there, and taken from there in later calls, which differ from the first
                in noisy values, times and `told` alone. None: nothing is kept.
            still: streams whose noisy values, too, are the same in all calls that share `kept`.

        Raises:
            ValueError: a stream that the network does not predict.
        """
        wanted = self.streams if streams is None else tuple(streams)
        if not {*wanted} <= {*self.streams}:
            raise ValueError(f"this network predicts {' and '.join(self.streams)}, asked for {', '.join(wanted)}")
        hidden_BN = hiding(real_BN)
        gene_BND, control_BND = self._given(fields, hidden_BN, kept)
        p_BD = self.perturbations(fields["perturbation"], fields.get("told"), self.genes, part(kept, "perturbation"))
        told = [self.times[stream](times[stream]) for stream in self.streams]
        c_BD = sum([p_BD, *told]) if self.condition == "time_perturbation" else sum(told)
        x_BND = self._tokens(fields, control_BND, gene_BND, hidden_BN, kept, still)
        if self.product is not None:
            product_BND = self.product(gene_BND, p_BD, part(kept, "product"))
            x_BND = x_BND + product_BND
        losses: dict[str, Tensor] = {}
        stats: dict[str, Tensor] = {}
        for i, layer in enumerate(self.layers):
            inputs = (x_BND, control_BND, gene_BND, p_BD, c_BD, hidden_BN, part(kept, f"layer {i}"))
            x_BND, aux = recomputed(layer, *inputs) if self.recompute else layer(*inputs)
            losses |= {f"{name}/{i}": loss for name, loss in aux.losses.items()}
            stats |= {f"layer {i}/{name}": stat for name, stat in aux.stats.items()}
        outputs = {}
        for stream in self.streams:
            if stream in wanted:
                outputs[stream], aux = self.decoders[stream](x_BND, p_BD, c_BD, hidden_BN)
                if self.product is not None:
                    outputs[stream] = outputs[stream] + self.product.read(stream, product_BND, sum(told))
                losses |= {f"{name}/{stream} decoder": loss for name, loss in aux.losses.items()}
                stats |= {f"{stream} decoder/{name}": stat for name, stat in aux.stats.items()}
        return outputs, Aux(losses, stats)

    def _given(self, fields: dict[str, Tensor], hidden_BN: Tensor | None, kept: Kept | None) -> tuple[Tensor, Tensor]:
        """Genes and control cells, which depend on neither noisy values nor times."""

        def genes() -> Tensor:
            gene_BN = fields["gene"] if hidden_BN is None else fields["gene"].masked_fill(~hidden_BN, 0)
            return self._genes(gene_BN, hidden_BN is not None)

        def control() -> Tensor:
            return self.values["control"](blanked(fields["control"], hidden_BN)) + gene_BND

        gene_BND = once(kept, "genes", genes)
        return gene_BND, once(kept, "control", control)

    def _tokens(
        self,
        fields: dict[str, Tensor],
        control_BND: Tensor,
        gene_BND: Tensor,
        hidden_BN: Tensor | None,
        kept: Kept | None,
        still: Collection[str],
    ) -> Tensor:
        """What a token is of its streams and its control cell."""

        def seen() -> Tensor:
            own_BND = None
            if "expression" in self.streams:
                own_BND = self.values["expression"](blanked(fields["expression"], hidden_BN)) + gene_BND
            return self.fused(control_BND, own_BND, part(kept, "fused"))

        moves = "expression" in self.streams and "expression" not in still
        x_BND = seen() if moves else once(kept, "seen", seen)
        if "latent" in self.streams:
            told = once(
                kept if "latent" in still else None,
                "latents",
                lambda: self.latents(blanked(fields["latent"], hidden_BN)),
            )
            x_BND = x_BND + told
        return x_BND

    def _genes(self, gene_BN: Tensor, padded: bool) -> Tensor:
        """Embeddings of genes, (1, N, D) where all cells have the same, else (B, N, D); none is computed twice."""
        if gene_BN.is_meta or not (padded or bool((gene_BN != gene_BN[:1]).any())):
            return self.genes(gene_BN[0])[None]
        distinct_U, place_BN = gene_BN.unique(return_inverse=True)
        return F.embedding(place_BN, self.genes(distinct_U))


class Product(nn.Module):
    """h = (A g) * (B p) of a gene and the perturbations of a cell, and W (h (1 + T silu(times))) of each stream.

    What a perturbation does to a gene as a product of factors of both, as in the linear models that networks find hard
    to beat (Ahlmann-Eltze et al. 2025, doi:10.1038/s41592-025-02772-6). Without it a network has to build the product
    from sums, and in a few hundred steps it does not: it predicts the mean of all perturbations. W and T start at 0.
    """

    def __init__(self, width: int, outputs: dict[str, int], zero: bool) -> None:
        super().__init__()
        self.of_gene, self.of_perturbation = Affine(width, width), Affine(width, width)
        self.of_times = Affine(width, width, zero=zero)
        self.reads = nn.ModuleDict({stream: Affine(width, numbers, zero=zero) for stream, numbers in outputs.items()})

    def forward(self, gene_BND: Tensor, p_BD: Tensor, kept: Kept | None = None) -> Tensor:
        """h (B, N, D)."""
        return once(kept, "genes", lambda: self.of_gene(gene_BND)) * self.of_perturbation(p_BD)[:, None]

    def read(self, stream: str, h_BND: Tensor, told_BD: Tensor) -> Tensor:
        """What it says by itself of a stream, (B, N, numbers), at these times."""
        return self.reads[stream](h_BND * (1 + self.of_times(F.silu(told_BD)))[:, None])


class ExpressionDecoder(nn.Module):
    """W_3 lrelu(W_2 lrelu(W_1 [x; p])), as in scDFM; W_3 starts at 0."""

    def __init__(self, width: int, numbers: int, zero: bool) -> None:
        super().__init__()
        self.first, self.second = Beside(width), Affine(width, width)
        self.last = Affine(width, numbers, zero=zero)

    def forward(self, x_BND: Tensor, p_BD: Tensor, c_BD: Tensor, real_BN: Tensor | None) -> tuple[Tensor, Aux]:
        inner = F.leaky_relu(self.second(F.leaky_relu(self.first(x_BND, p_BD))))
        return self.last(inner), Aux()


class LatentDecoder(nn.Module):
    """W (RMSNorm(y) (1 + scale) + shift) of y = W_0 x after blocks of its own; W starts at 0.

    The decoder heads of Baade et al. 2026, arXiv:2602.11401: attention and feed-forward network with RMS norms, steered
    by the condition. Both are those of the layers.
    """

    def __init__(self, parts: Parts, frame: Frame) -> None:
        super().__init__()
        width, how = parts.width, Sublayers(parts, "rms", frame.zero)
        self.first = Affine(width, width)
        self.blocks = nn.ModuleList(Block(itself=how.reads(), ffn=how.thinks()) for _ in range(frame.decoder_depth))
        self.steered = Steered(width, "rms", frame.zero, gated=False)
        self.last = Affine(width, parts.outputs["latent"], zero=frame.zero)

    def forward(self, x_BND: Tensor, p_BD: Tensor, c_BD: Tensor, real_BN: Tensor | None) -> tuple[Tensor, Aux]:
        y_BND = self.first(x_BND)
        losses: dict[str, Tensor] = {}
        stats: dict[str, Tensor] = {}
        for i, block in enumerate(self.blocks):
            y_BND, aux = block(y_BND, None, c_BD, real_BN)
            losses |= {f"{name}/{i}": value for name, value in aux.losses.items()}
            stats |= {f"{i}/{name}": value for name, value in aux.stats.items()}
        return self.last(self.steered(y_BND, c_BD)[0]), Aux(losses, stats)


def _closed(residual: Residual) -> bool:
    """Whether the residual begins by adding nothing."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]), torch.no_grad():
        one = torch.ones(1, 1, 2)
        return bool((residual.build(2)(one, one) == one).all())
