"""Joint diffusion of the expression and the coordinates of a set of cells.

A set is cells of one section. Both modalities are noised along a path, each at its own time, and one network predicts
the clean values of both (data prediction). With one modality clean the same network gives the conditionals: where does
a cell with this expression sit, and what does a cell at this place express.
After LUNA (doi:10.1101/2025.02.13.638045), with coordinates and expression treated alike.

B sets, N cells, G genes, P axes of space.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from core.kinds import (
    FFN,
    Attention,
    Aux,
    Batch,
    Card,
    Encoder,
    Evaluation,
    FlowPath,
    Mask,
    Metric,
    Noise,
    Picture,
    Plugin,
    Position,
    Residual,
    Solver,
    Source,
    System,
    Terms,
    Time,
    Tree,
    ValueLoss,
)
from core.params import knob, params, slot
from core.score import MODEL
from core.train.streams import Streams
from plugins.systems.spatial import baselines, embed, extra, generate
from plugins.systems.spatial.judge import SAMPLE, TASKS, Arms, Judge, cells_of
from plugins.systems.spatial.network import MODALITIES, Network, hiding
from plugins.systems.spatial.pictures import pictures
from plugins.systems.spatial.watch import watching


@params
class Spatial(System):
    """Joint diffusion of expression and 2-D or 3-D coordinates of the cells of a section."""

    headline: ClassVar[str] = f"{TASKS['position']}/distance_spearman"
    trivial: ClassVar[tuple[str, ...]] = baselines.TRIVIAL
    scaled_by: ClassVar[str] = "ffn.ratio"

    width: int = knob(128, "model width", ge=8)
    depth: int = knob(4, "layers", ge=1)
    dropout: float = knob(0.1, "share of each layer's output that is dropped in training", ge=0.0, lt=1.0)
    encoder: Encoder = slot("cell", "cells become tokens")
    attention: Attention = slot("softmax", "cells read from each other")
    ffn: FFN = slot("dense", "each cell on its own")
    residual: Residual = slot("plain", "how a layer's output joins its input")
    path: FlowPath = slot("cosine", "how data turn into noise")
    position_path: FlowPath | None = slot(None, "another path for positions; none: the same")
    time: Time = slot("independent", "which times a training step visits")
    solver: Solver = slot("ddpm", "from noise to data")
    sampling: int = knob(50, "solver steps", ge=1)
    expression_loss: tuple[ValueLoss, ...] = slot(("mse",), "how wrong predicted expression is")
    position_loss: tuple[ValueLoss, ...] = slot(("distance_mse", "mse"), "how wrong predicted positions are")
    expression_weight: float = knob(1.0, "weight of the expression loss", ge=0.0)
    position_weight: float = knob(1.0, "weight of the position loss", ge=0.0)
    rotate: bool = knob(
        False,
        "turn and mirror each training set at random, for sections without a common frame; drop the loss mse then",
    )
    metrics: tuple[Metric, ...] = slot(
        (
            "distance_spearman",
            "contact_f1",
            "knn_preservation",
            "procrustes",
            "distance_error",
            "rssd",
            "pearson_gene",
            "pearson_cell",
            "moran_agreement",
            "expression_mse",
        ),
        "what the evaluation reports",
    )

    def __attrs_post_init__(self) -> None:
        if not self.expression_loss or not self.position_loss or not self.metrics:
            raise ValueError("expression_loss, position_loss and metrics each need at least one name")
        for loss in (*self.expression_loss, *self.position_loss):
            if loss.reads != "values":
                raise ValueError(
                    f"expression_loss and position_loss compare values, and {type(loss).__name__} reads {loss.reads}; "
                    "take a loss of values, such as mse"
                )

    def rejects(self, piece: Plugin) -> str | None:
        if isinstance(piece, (Mask, Position)) and piece.indexed:
            known = "neighbours" if isinstance(piece, Mask) else "fourier"
            return f"the cells of a set come in no order; take one that goes by coordinates, such as `{known}`"
        return None

    def build(self, card: Card) -> nn.Module:
        return Network(
            card,
            width=self.width,
            depth=self.depth,
            dropout=self.dropout,
            encoder=self.encoder,
            attention=self.attention,
            ffn=self.ffn,
            residual=self.residual,
        )

    def example(self, card: Card) -> Batch:
        sizes = card.sizes
        shape = (sizes["sets_per_batch"], sizes["set_size"])
        fields = {
            "expression": torch.empty(*shape, sizes["genes"]),
            "position": torch.empty(*shape, sizes["dims"]),
        }
        return Batch(fields, torch.ones(shape, dtype=torch.bool), ("",) * shape[0])

    def step(self, model: nn.Module, batch: Batch, streams: Streams, step: int) -> Terms:
        real = batch.real_BN
        data = {m: batch.fields[m] for m in MODALITIES}
        if self.rotate:
            data["position"] = data["position"] @ _frames(data["position"], streams.generator("frame", step))
        hidden = hiding(real)
        data["position"] = _centred(data["position"], hidden)
        times = self.time.draw(real.shape[0], MODALITIES, streams.generator("time", step))
        times = {m: t.to(real.device) for m, t in times.items()}
        noise = _noise(data, hidden, streams.generator("noise", step))
        shares = self._shares(times)
        noisy = {m: alpha * data[m] + sigma * noise[m] for m, (alpha, sigma) in shares.items()}
        predicted, aux = self._denoise(model, noisy, times, shares, real)
        losses: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        for m in MODALITIES:
            chosen, weight = {
                "expression": (self.expression_loss, self.expression_weight),
                "position": (self.position_loss, self.position_weight),
            }[m]
            # A modality that a set was given clean is no task there.
            asked = real & (times[m] < 1)[:, None]
            for loss in chosen:
                for name, value in loss(predicted[m].float(), data[m], asked).items():
                    losses[f"{m}/{name}"], weights[f"{m}/{name}"] = value, weight
        return Terms(losses=losses, weights=weights, auxiliary=aux.losses, stats=aux.stats)

    def sample(self, model: nn.Module, batch: Batch, wanted: tuple[str, ...], generator: torch.Generator) -> Tree:
        """Draw the `wanted` modalities of a batch, given the others.

        Args:
            model: the network, in evaluation mode.
            batch: sets of cells; the wanted fields are not read.
            wanted: `expression`, `position` or both.
            generator: source of all noise.

        Returns:
            For each wanted modality the sample (B, N, ...), in model units.
        """
        start, noise, predict = self._conditional(model, batch, wanted, generator)

        def field(state: Tree, t: float) -> Tree:
            t_B = torch.full(batch.real_BN.shape[:1], t, device=batch.real_BN.device)
            found = predict(state, t)
            return {m: self._path(m).convert(state[m], t_B, found[m], "data", self.solver.wants) for m in wanted}

        times = np.linspace(0.0, 1.0, self.sampling + 1).tolist()
        return self.solver.solve(field, start, times, paths={m: self._path(m) for m in wanted}, noise=noise)

    def expect(self, model: nn.Module, batch: Batch, wanted: tuple[str, ...], generator: torch.Generator) -> Tree:
        """The mean of the `wanted` modalities given the others: the data prediction from noise alone, one call.

        A mean is closer to the truth than any one sample, and less varied than the truth.
        """
        start, _, predict = self._conditional(model, batch, wanted, generator)
        return predict(start, 0.0)

    def _conditional(
        self, model: nn.Module, batch: Batch, wanted: tuple[str, ...], generator: torch.Generator
    ) -> tuple[Tree, Noise, Callable[[Tree, float], Tree]]:
        """Noise to start from, the source of further noise, and the data prediction of the wanted modalities."""
        real, hidden = batch.real_BN, hiding(batch.real_BN)
        given = {m: batch.fields[m] for m in MODALITIES if m not in wanted}

        def noise(like: Tree) -> Tree:
            return _noise(like, hidden, generator)

        def predict(state: Tree, t: float) -> Tree:
            times = {m: torch.full(real.shape[:1], t if m in wanted else 1.0, device=real.device) for m in MODALITIES}
            predicted, _ = self._denoise(model, state | given, times, self._shares(times), real)
            return {m: predicted[m].float() for m in wanted}

        return noise({m: batch.fields[m] for m in wanted}), noise, predict

    @torch.no_grad()
    def evaluate(self, model: nn.Module, source: Source, split: str, streams: Streams) -> Evaluation:
        train = [cells_of(batch) for batch in source.split("train", streams).units()]
        known = {m: np.concatenate([cells[m] for cells in train]) for m in MODALITIES}
        device = next(model.parameters()).device
        judge = Judge(self.metrics)
        held = source.split(split, streams)
        chosen = judge.choose({unit.units[0]: int(unit.real_BN.sum()) for unit in held.units()})
        for index, unit in enumerate(held.units()):
            if unit.units[0] not in chosen:
                continue
            arms: dict[str, Arms] = {}
            for m in MODALITIES:
                mean = self.expect(model, unit.to(device), (m,), streams.generator(f"eval:{m}", index))
                with watching(model) as watch:
                    one = self.sample(model, unit.to(device), (m,), streams.generator(f"eval:{m}", index))
                if m == "position":
                    judge.watched(unit, watch)
                arms[m] = {MODEL: mean[m][0].cpu().numpy(), SAMPLE: one[m][0].cpu().numpy()}
            more = extra.draw(self, model, unit.to(device), self.metrics, streams, index)
            judge.add(unit, arms, known, source, streams.generator("eval", index), more)
        return judge.evaluation()

    def pictures(self, evaluation: Evaluation) -> Iterable[Picture]:
        return pictures(evaluation)

    def modes(self) -> Mapping[str, tuple[str, ...]]:
        return generate.MODES

    def generate(
        self, model: nn.Module, unit: Batch, mode: str, streams: Streams, *, index: int, draws: int, patch: int
    ) -> dict[str, np.ndarray]:
        return generate.generate(self, model, unit, mode, streams, index=index, draws=draws, patch=patch)

    def layers(self) -> Mapping[str, tuple[str, ...]]:
        return embed.LAYERS

    def embed(self, model: nn.Module, unit: Batch, layer: str, known: Collection[str], *, patch: int) -> np.ndarray:
        return embed.embed(model, unit, layer, known, patch=patch)

    def _path(self, modality: str) -> FlowPath:
        return self.position_path if modality == "position" and self.position_path is not None else self.path

    def _shares(self, times: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Shares of data and noise, (B, 1, 1) each, at the time of each modality."""
        paths = {m: self._path(m) for m in MODALITIES}
        shares = {m: p.shares(times[m]) for m, p in paths.items()}
        return {m: (alpha[:, None, None], sigma[:, None, None]) for m, (alpha, sigma) in shares.items()}

    def _denoise(
        self,
        model: nn.Module,
        noisy: Tree,
        times: dict[str, Tensor],
        shares: dict[str, tuple[Tensor, Tensor]],
        real: Tensor,
    ) -> tuple[Tree, Aux]:
        """Data predictions: what the noisy value says by itself, plus what the network adds.

        For data of unit variance the noisy value alone has the conditional mean alpha x_t / (alpha^2 + sigma^2), which
        is also what the network is shown: pure noise becomes 0, a clean input stays as it is. The network's share is
        the conditional deviation sigma / sqrt(alpha^2 + sigma^2) (Karras et al. 2022, arXiv:2206.00364, table 1).
        Positions are centred over the real cells.
        """
        alone, share = {}, {}
        for m, (alpha, sigma) in shares.items():
            norm = alpha**2 + sigma**2
            alone[m], share[m] = alpha / norm * noisy[m], sigma / norm.sqrt()
        raw, aux = model(alone, times, real)
        hidden = hiding(real)
        out = {m: alone[m] + share[m] * raw[m] for m in noisy}
        return {m: _blank(_centred(x, hidden) if m == "position" else x, hidden) for m, x in out.items()}, aux


def _noise(like: Tree, real_BN: Tensor | None, generator: torch.Generator) -> Tree:
    """Standard normal noise, drawn on the CPU in a fixed order of modalities; positions centred, padding zero."""
    fresh = {}
    for m in MODALITIES:
        if m in like:
            draw = torch.randn(like[m].shape, generator=generator).to(like[m].device)
            fresh[m] = _blank(_centred(draw, real_BN) if m == "position" else draw, real_BN)
    return fresh


def _blank(x_BNF: Tensor, real_BN: Tensor | None) -> Tensor:
    """Zeros on padding; None: there is none."""
    return x_BNF if real_BN is None else x_BNF * real_BN[..., None]


def _centred(x_BNP: Tensor, real_BN: Tensor | None) -> Tensor:
    """Positions about the mean of the real cells; None: all are real."""
    if real_BN is None:
        return x_BNP - x_BNP.mean(1, keepdim=True)
    weight = real_BN[..., None].to(x_BNP.dtype)
    return x_BNP - (x_BNP * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp_min(1)


def _frames(position_BNP: Tensor, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix a set (B, P, P), uniform over rotations and reflections (Mezzadri 2007)."""
    sets, dims = position_BNP.shape[0], position_BNP.shape[-1]
    q, r = torch.linalg.qr(torch.randn(sets, dims, dims, generator=generator))
    return (q * r.diagonal(dim1=-2, dim2=-1).sign()[:, None]).to(position_BNP.device)
