"""Networks of layers over three streams: cells, their places, and the time.

B sets, N cells, G genes, P axes of space, M modalities, T width of the time stream.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from core.kinds import Aux, Card, Layout, Parts
from core.nn.padding import blanked, centred, hiding
from core.nn.recompute import recomputed
from plugins.backbones._layer import Layer
from plugins.backbones._places import SMALL, Radial, distance

MODALITIES = ("expression", "position")


class ThreeStreams(nn.Module):
    """Embed the three streams, run the layers, read expression and places out.

    Args:
        parts: what is to be predicted, and whether layers are computed again.
        encoder: what cells say.
        time: from noise levels, one a predicted modality, or one where `together`, to the time stream.
        together: the time is the noisiest modality's alone.
        radial: embeds places.
        layers: at least one.
        heads: read the predicted modalities: `expression` of cells, `position` of cells and places.
        unread: further modules that are stored and never used.
    """

    def __init__(
        self,
        parts: Parts,
        *,
        encoder: nn.Module,
        time: nn.Module,
        together: bool,
        radial: Radial,
        layers: list[Layer],
        heads: dict[str, nn.Module],
        unread: list[nn.Module],
    ) -> None:
        super().__init__()
        self.noised = tuple(m for m in MODALITIES if m in parts.outputs)
        self.recompute, self.together = parts.recompute, together
        self.encoder, self.time, self.radial = encoder, time, radial
        self.layers = nn.ModuleList(layers)
        self.heads, self.unread = nn.ModuleDict(heads), nn.ModuleList(unread)

    def forward(
        self, fields: dict[str, Tensor], times: dict[str, Tensor], real_BN: Tensor
    ) -> tuple[dict[str, Tensor], Aux]:
        """Raw outputs by modality, and what the layers say beside them, both named by the layer.

        Args:
            fields: `expression` (B, N, G) and `position` (B, N, P), and what else the encoder reads.
            times: (B,) in [0, 1] of each predicted modality; 1 is clean.
            real_BN: bool, False on padding, which may hold anything.
        """
        hidden_BN = hiding(real_BN)
        fields = fields | {m: blanked(fields[m], hidden_BN) for m in MODALITIES}
        noise_BM = torch.stack([1.0 - times[m] for m in self.noised], -1)
        time_BT = self.time(noise_BM.amax(-1, keepdim=True) if self.together else noise_BM)
        x_BND = self.encoder(fields, real_BN).x_BTD
        place_BNP = centred(self.radial(centred(fields["position"], hidden_BN)), hidden_BN)
        layout = Layout(place_BQP=fields["position"], memo={})
        losses: dict[str, Tensor] = {}
        stats: dict[str, Tensor] = {}
        for i, layer in enumerate(self.layers):
            given = (x_BND, place_BNP, time_BT, hidden_BN, layout)
            x_BND, place_BNP, time_BT, aux = recomputed(layer, *given) if self.recompute else layer(*given)
            losses |= {f"{name}/{i}": value for name, value in aux.losses.items()}
            stats |= {f"layer {i}/{name}": value for name, value in aux.stats.items()}
        outputs = {}
        if "expression" in self.heads:
            outputs["expression"] = self.heads["expression"](x_BND)
        if "position" in self.heads:
            outputs["position"] = centred(self.heads["position"](x_BND, place_BNP), hidden_BN)
        return outputs, Aux(losses, stats)


class Outward(nn.Module):
    """p s(x, p, |p|) / |p|: a place keeps its direction, and cells say how far along it lies, backwards too.

    Args:
        features: what of a cell matters.
        scale: from features, place and distance to a distance.
    """

    def __init__(self, features: nn.Module, scale: nn.Module) -> None:
        super().__init__()
        self.features, self.scale = features, scale

    def forward(self, x_BND: Tensor, place_BNP: Tensor) -> Tensor:
        distance_BN1 = distance(place_BNP)
        scale_BN1 = self.scale(torch.cat([self.features(x_BND), place_BNP, distance_BN1], -1))
        return place_BNP * scale_BN1 / (distance_BN1 + SMALL)


def axes_of(card: Card, parts: Parts, name: str) -> int:
    """Axes of space.

    Raises:
        ValueError: the data have no places, or positions are to be read out as an embedding.
    """
    if "dims" not in card.sizes:
        raise ValueError(
            f"the backbone {name} moves cells from place to place, and the data {card.name} have none; take another"
        )
    axes = card.sizes["dims"]
    if parts.outputs.get("position", axes) != axes:
        raise ValueError(
            f"the backbone {name} moves places along their own direction, so it cannot read an embedding out; take "
            "position_head = coordinate or the backbone cells"
        )
    return axes


def mlp(*widths: int, last: bool = False) -> nn.Sequential:
    """Linear maps with a rectifier between them, and after the last where asked."""
    layers: list[nn.Module] = []
    for one, other in itertools.pairwise(widths):
        layers += [nn.Linear(one, other), nn.ReLU()]
    return nn.Sequential(*(layers if last else layers[:-1]))


def frozen(module: nn.Module) -> nn.Module:
    """The module with parameters that are counted and stored, and ask for no gradient, as nothing reads them."""
    return module.requires_grad_(False)
