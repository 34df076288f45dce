"""Small networks of perturbation responses, what they are built from and what they are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from core.config import resolve_part
from core.kinds import Backbone, Card, Parts
from core.testing.draws import coins, randn

BACKBONES = ("diff_perceiver", "perceiver", "diff_transformer")
LATENT = 3
M = TypeVar("M", bound=nn.Module)


def card(genes: int = 9, perturbations: int = 5, together: int = 3) -> Card:
    sizes = {"genes": genes, "perturbations": perturbations, "together": together}
    return Card(name="drawn", sizes=sizes, splits={}, fingerprint="")


def parts(
    *,
    streams: tuple[str, ...] = ("expression", "latent"),
    width: int = 8,
    depth: int = 2,
    dropout: float = 0.0,
    attention: str = "differential",
    ffn: str = "dense(ratio=2)",
    residual: str = "plain",
    recompute: bool = False,
) -> Parts:
    sizes = {"expression": 1, "latent": LATENT}
    return Parts(
        width=width,
        depth=depth,
        dropout=dropout,
        attention=resolve_part("attention", attention, {"heads": 2}),
        ffn=resolve_part("ffn", ffn, {}),
        residual=resolve_part("residual", residual, {}),
        outputs={stream: sizes[stream] for stream in streams},
        recompute=recompute,
    )


def backbone(name: str, **given: object) -> Backbone:
    """One of `BACKBONES`, small; parameters of its frame as `frame.zero`."""
    small = {"frame.heads": 2, "frame.neighbours": 3, "frame.latent_bottleneck": 4}
    return resolve_part("backbone", name, small | given)


def moved(module: M, seed: int = 0, by: float = 0.3) -> M:
    """The module, every parameter moved from its first value, as what starts at 0 hides what lies behind it."""
    with torch.no_grad():
        for i, parameter in enumerate(module.parameters()):
            parameter.add_(by * randn(seed + i, *parameter.shape))
    return module


def fresh(build: Callable[[], M], seed: int = 0) -> M:
    """A module with the first values of a seed, in float64, in evaluation."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().double().eval()


def network(
    name: str, seed: int = 0, how: dict[str, object] | None = None, by: float = 0.3, **given: object
) -> nn.Module:
    """A network whose gates are open, in evaluation, with a table of neighbours; `how` is of the backbone."""
    made = fresh(lambda: backbone(name, **(how or {})).build(card(), parts(**given)), seed)  # type: ignore[arg-type]
    if made.genes.reading is not None:
        table = torch.randint(-1, 9, (9, 3), generator=torch.Generator().manual_seed(seed))
        made.set_neighbours(table[:, : made.genes.reading.neighbours_VK.shape[1] - 1])
    return moved(made, seed, by)


def batch(
    sets: int = 4, genes: int = 6, seed: int = 0, on: Card | None = None, same: bool = True
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Fields and times; `same`: all cells have the same genes, none twice."""
    sizes = (on or card()).sizes
    generator = torch.Generator().manual_seed(seed)

    def codes(*shape: int, high: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    gene_BN = codes(sets, genes, high=sizes["genes"])
    if same:
        gene_BN = torch.randperm(sizes["genes"], generator=generator)[:genes].expand(sets, -1)
    fields = {
        "expression": randn(seed, sets, genes, 1),
        "latent": randn(seed + 1, sets, genes, LATENT),
        "control": randn(seed + 2, sets, genes, 1).abs(),
        "gene": gene_BN,
        "perturbation": codes(sets, sizes["together"], high=sizes["perturbations"]),
        "told": coins(seed, sets, heads=0.7),
    }
    return fields, {k: torch.rand(sets, generator=generator, dtype=torch.float64) for k in ("expression", "latent")}


cards = st.builds(card, st.integers(1, 7), st.integers(1, 4), st.integers(1, 3))
