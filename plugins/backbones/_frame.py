"""Parameters that the perturbation networks share: everything around their layers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from core.params import knob, params


@params
class Frame:
    """How genes, values, times and perturbations are embedded, how layers are told of them, and what reads out."""

    heads: int = knob(8, "heads of the attentions that `attention` does not choose; must divide the width", ge=1)
    neighbours: int = knob(
        30,
        "genes that the embedding of a gene reads besides its own: the most co-expressed in training; 0: none",
        ge=0,
        source="scDFM, arXiv:2602.07103",
    )
    product: bool = knob(
        True,
        "tokens and read-outs are also given the product of maps of the gene and of the perturbation",
        source="the linear model of Ahlmann-Eltze et al. 2025, doi:10.1038/s41592-025-02772-6",
    )
    combine: Literal["mean", "sum"] = knob("sum", "what a set of perturbations is of its members; mean: as in scDFM")
    average_control: bool = knob(
        False, "a single perturbation is averaged with the control's embedding, as in scDFM", acts="combine=mean"
    )
    condition: Literal["time", "time_perturbation"] = knob(
        "time_perturbation", "what scales and shifts the norms of layers: the times, or their sum with the perturbation"
    )
    adapter: Literal["replace", "add", "none"] = knob(
        "replace", "each layer's map of [token; perturbation]: in place of the token, as in scDFM, added to it, or none"
    )
    time_scale: float = knob(
        1000.0,
        "what times in [0, 1] are multiplied by before their sines; 1: as in scDFM, which hardly tells them",
        gt=0.0,
    )
    latent_bottleneck: int = knob(
        128, "inner width of the embedding of latents", ge=1, source="Baade et al. 2026, arXiv:2602.11401"
    )
    latent_act: Literal["none", "gelu"] = knob("none", "between the two maps of that embedding")
    decoder_depth: int = knob(1, "blocks of the latent decoder's own; 0: the read-out alone", ge=0)
    zero: bool = knob(
        True,
        "norms are steered, gates open and read-outs begin at 0, so that every layer starts as the identity",
        source="Peebles and Xie 2023, arXiv:2212.09748",
        decides="start",
    )

    def idle(self, outputs: Collection[str]) -> tuple[str, ...]:
        """Parameters that do nothing where these streams alone are predicted: those of latents without latents."""
        return () if "latent" in outputs else ("latent_bottleneck", "latent_act", "decoder_depth")
