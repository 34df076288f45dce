"""Networks of layers over three streams: cells, their places, and the time.

B sets, N cells, G genes, P axes of space, M modalities, T width of the time stream.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

from core.kinds import Aux, Layout
from core.nn.padding import blanked, hiding
from plugins.backbones._layer import Layer
from plugins.backbones._places import SMALL, Radial, centred, distance

MODALITIES = ("expression", "position")


class ThreeStreams(nn.Module):
    """Embed the three streams, run the layers, read expression and places out.

    Args:
        encoder: what cells say.
        time: from M noise levels, or from one where `together`, to the time stream.
        together: the time is the noisiest modality's alone.
        radial: embeds places.
        layers: at least one.
        expression: reads expression; None: nothing is added to what the noisy value says.
        features: what of a cell decides how far its place lies.
        scale: from features, place and distance to a distance.
    """

    def __init__(
        self,
        *,
        encoder: nn.Module,
        time: nn.Module,
        together: bool,
        radial: Radial,
        layers: list[Layer],
        expression: nn.Module | None,
        features: nn.Module,
        scale: nn.Module,
    ) -> None:
        super().__init__()
        self.encoder, self.time, self.together, self.radial = encoder, time, together, radial
        self.layers = nn.ModuleList(layers)
        self.expression, self.features, self.scale = expression, features, scale

    def forward(
        self, fields: dict[str, Tensor], times: dict[str, Tensor], real_BN: Tensor
    ) -> tuple[dict[str, Tensor], Aux]:
        """Raw outputs by modality, and what the layers say beside them, both named by the layer.

        Args:
            fields: noisy `expression` (B, N, G) and `position` (B, N, P).
            times: (B,) in [0, 1] by modality; 1 is clean.
            real_BN: bool, False on padding, which may hold anything.
        """
        hidden_BN = hiding(real_BN)
        fields = {m: blanked(fields[m], hidden_BN) for m in MODALITIES}
        noise_BM = torch.stack([1.0 - times[m] for m in MODALITIES], -1)
        time_BT = self.time(noise_BM.amax(-1, keepdim=True) if self.together else noise_BM)
        x_BND = self.encoder(fields, real_BN).x_BTD
        place_BNP = centred(self.radial(centred(fields["position"], hidden_BN)), hidden_BN)
        layout = Layout(place_BQP=fields["position"])
        losses: dict[str, Tensor] = {}
        stats: dict[str, Tensor] = {}
        for i, layer in enumerate(self.layers):
            x_BND, place_BNP, time_BT, aux = layer(x_BND, place_BNP, time_BT, hidden_BN, layout)
            losses |= {f"{name}/{i}": value for name, value in aux.losses.items()}
            stats |= {f"layer {i}/{name}": value for name, value in aux.stats.items()}
        distance_BN1 = distance(place_BNP)
        scale_BN1 = self.scale(torch.cat([self.features(x_BND), place_BNP, distance_BN1], -1))
        place_BNP = centred(place_BNP * scale_BN1 / (distance_BN1 + SMALL), hidden_BN)
        expression_BNG = torch.zeros_like(fields["expression"]) if self.expression is None else self.expression(x_BND)
        return {"expression": expression_BNG, "position": place_BNP}, Aux(losses, stats)


def mlp(*widths: int, last: bool = False) -> nn.Sequential:
    """Linear maps with a rectifier between them, and after the last where asked."""
    layers: list[nn.Module] = []
    for one, other in itertools.pairwise(widths):
        layers += [nn.Linear(one, other), nn.ReLU()]
    return nn.Sequential(*(layers if last else layers[:-1]))


def frozen(module: nn.Module) -> nn.Module:
    """The module with parameters that are counted and stored, and ask for no gradient, as nothing reads them."""
    return module.requires_grad_(False)
