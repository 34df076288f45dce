"""Flow matching of what single cells express after perturbations, led by a latent that comes first.

Training pairs noise with a perturbed cell and regresses the velocity between them (Lipman et al. 2023,
arXiv:2210.02747), told a control cell and the set of perturbations, after scDFM (arXiv:2602.07103). Beside expression a
second stream is learned, frozen latents of each gene of the cell, at a time of its own: generation first makes the
latent and then, given it, the expression, as latent forcing does with images (Baade et al. 2026, arXiv:2602.11401).

M cells, G genes, K genes of a step, P perturbations together, D numbers of a latent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from core.errors import UserError
from core.kinds import (
    FFN,
    Attention,
    Backbone,
    Batch,
    Card,
    Evaluation,
    FlowPath,
    Mask,
    Parts,
    Picture,
    Plugin,
    Pooling,
    Position,
    Residual,
    SampleLoss,
    Solver,
    Source,
    System,
    Terms,
    Time,
    ValueLoss,
)
from core.kinds.extractor import Extractor
from core.kinds.metric import GroupMetric
from core.params import knob, params, slot
from core.train.streams import Streams
from plugins.systems.perturb import generate
from plugins.systems.perturb.baselines import TRIVIAL
from plugins.systems.perturb.cells import GIVEN, Cells, Given
from plugins.systems.perturb.checks import check
from plugins.systems.perturb.embed import embed, layers_of
from plugins.systems.perturb.evaluation import TASK, evaluated
from plugins.systems.perturb.fitting import fitted_to
from plugins.systems.perturb.generate import EXPRESSION, LATENT
from plugins.systems.perturb.network import CONTROLS, Origin, Responder
from plugins.systems.perturb.pictures import pictures
from plugins.systems.perturb.zeros import with_zeros

PLAIN = {"mask": "full", "position": "none"}
"""pieces that treat all genes alike"""


@params
class Perturb(System):
    """Cascaded conditional flow matching of single-cell perturbation responses."""

    trivial: ClassVar[tuple[str, ...]] = TRIVIAL
    scaled_by: ClassVar[str] = "ffn.ratio"
    # Effects are a small part of what a velocity is made of, and a screen shows each of many perturbations seldom.
    suggests: ClassVar[dict[str, Any]] = {"train.lr": 0.01}
    sampled_by: ClassVar[tuple[str, ...]] = (
        "solver", "sampling", "latent_steps", "sampling_shift", "latent_shift", "guidance", "latent_guidance",
        "guided_from", "guided_to", "latent_guided_from", "latent_guided_to", "zeros", "cells_per_call",
    )  # fmt: skip

    width: int = knob(32, "model width", ge=8)
    depth: int = knob(2, "layers", ge=1)
    dropout: float = knob(0.0, "share of each layer's output that is dropped in training", ge=0.0, lt=1.0)
    backbone: Backbone = slot("diff_perceiver", "how the network is put together")
    attention: Attention = slot("differential", "genes of a cell read from each other")
    ffn: FFN = slot("dense", "each gene on its own")
    residual: Residual = slot("plain", "how a layer's output joins its input")
    extractor: Extractor | None = slot("pca", "frozen latents that are generated first; none: expression alone")
    path: FlowPath = slot("cond_ot", "how cells turn into noise")
    noise: Literal["gaussian", "poisson"] = knob("gaussian", "where expression starts")
    origin: Origin = knob(
        CONTROLS,
        "what expression is measured from: the mean of a cell's own control cells, so that a new context starts at its "
        "level, or of all training cells",
    )
    time: Time = slot("cascaded_noised", "which times a training step visits, and which stream comes first")
    genes: int | None = knob(None, "genes of a training step, drawn anew each step; none: all", ge=2)
    forget: float = knob(0.1, "share of training cells whose perturbation is not told", ge=0.0, lt=1.0)
    expression_loss: tuple[ValueLoss, ...] = slot(("mse",), "how wrong the velocity of expression is")
    latent_loss: tuple[ValueLoss, ...] = slot(("mse",), "how wrong the velocity of latents is")
    latent_weight: float = knob(1.0, "weight of the latent loss", ge=0.0, acts="extractor!=none")
    latent_of: Literal["covered", "all"] = knob(
        "all",
        "genes whose latents are learned: all, as 0 where the extractor is silent, or the others alone",
        acts="extractor!=none",
    )
    sample_loss: SampleLoss | None = slot("mmd", "how far predicted cells of a set are from its true ones, as samples")
    sample_weight: float = knob(0.5, "weight of that loss", ge=0.0, acts="sample_loss!=none")
    solver: Solver = slot("heun", "from noise to cells")
    sampling: int = knob(10, "solver steps of expression; an adaptive solver chooses them itself", ge=1)
    latent_steps: int = knob(
        10, "solver steps of the latent, where it has a stage of its own; an adaptive solver chooses them itself", ge=1,
        acts="extractor!=none",
    )  # fmt: skip
    sampling_shift: float = knob(
        1.0, "a: steps of expression lie at t a / (1 + (a - 1) t) of even ones, so nearer to the noise below 1", gt=0.0
    )
    latent_shift: float = knob(1.0, "the same for the latent", gt=0.0, acts="extractor!=none")
    guidance: float = knob(1.0, "how far expression is led away from the prediction without perturbation", ge=0.0)
    latent_guidance: float = knob(1.0, "the same for the latent", ge=0.0, acts="extractor!=none")
    guided_from: float = knob(0.0, "time of expression from which its guidance acts", ge=0.0, lt=1.0)
    guided_to: float = knob(1.0, "time of expression up to which it acts", gt=0.0, le=1.0)
    latent_guided_from: float = knob(0.0, "the same for the latent", ge=0.0, lt=1.0, acts="extractor!=none")
    latent_guided_to: float = knob(1.0, "the same for the latent", gt=0.0, le=1.0, acts="extractor!=none")
    zeros: Literal["calibrated", "controls", "none"] = knob(
        "calibrated",
        "exact zeros of the output: below a threshold of each gene, from training cells or from controls of the cells' "
        "own stratum; or none",
    )
    cells_per_call: int | None = knob(
        None, "cells that are generated at a time: memory, not results; none: as many as have 128,000 genes", ge=1,
        identity=False,
    )  # fmt: skip
    metrics: tuple[GroupMetric, ...] = slot(
        (
            "pearson_delta",
            "pearson_perturbed",
            "mse",
            "mae_delta",
            "centroid_accuracy",
            "discrimination_score_l1",
            "overlap_at_n",
            "de_direction_match",
            "pr_auc",
            "edistance",
            "mmd",
            "zero_rate_gap",
            "variance_ratio",
        ),
        "what the evaluation reports",
    )

    def __attrs_post_init__(self) -> None:
        check(self)

    def rejects(self, piece: Plugin) -> str | None:
        if isinstance(piece, (Mask, Position, Attention, Pooling)) and piece.ordered:
            kind = type(piece).KIND
            plain = f"; take the {kind} `{PLAIN[kind]}`" if kind in PLAIN else ""
            return f"the genes of a cell come in no order and lie at no place{plain}"
        if isinstance(piece, ValueLoss) and piece.pose_free:
            return "it compares places, and genes of a cell have values; take the loss `mse`"
        return None

    @property
    def headline(self) -> str:
        return f"{TASK}/pearson_delta"

    @property
    def streams(self) -> tuple[str, ...]:
        """What is generated, the expression first."""
        return (EXPRESSION,) if self.extractor is None else (EXPRESSION, LATENT)

    def build(self, card: Card) -> nn.Module:
        if not {"genes", "perturbations", "together"} <= card.sizes.keys():
            raise UserError(
                f"system perturb learns from screens of perturbations, and the data {card.name} are none; take "
                "`--data screen`, or an .h5ad file whose obs names a perturbation of each cell"
            )
        width = 0 if self.extractor is None else self.extractor.width
        outputs = {EXPRESSION: 1} | ({LATENT: width} if width else {})
        parts = Parts(
            width=self.width,
            depth=self.depth,
            dropout=self.dropout,
            attention=self.attention,
            ffn=self.ffn,
            residual=self.residual,
            outputs=outputs,
        )
        return Responder(self.backbone.build(card, parts), card.sizes["genes"], width, self.origin)

    def fit(self, source: Source, streams: Streams) -> Mapping[str, np.ndarray]:
        return fitted_to(source, streams, self.extractor, self.origin)

    def recall(self, model: nn.Module, fitted: Mapping[str, np.ndarray]) -> None:
        assert isinstance(model, Responder)
        model.recall(fitted, self.extractor)

    def example(self, card: Card) -> Batch:
        sizes = card.sizes
        shape = (sizes["sets_per_batch"], sizes["set_size"])
        fields = {
            "expression": torch.empty(*shape, sizes["genes"]),
            "control": torch.empty(*shape, sizes["genes"]),
            "level": torch.empty(*shape, sizes["genes"]),
            "perturbation": torch.zeros(*shape, sizes["together"], dtype=torch.int64),
        }
        return Batch(fields, torch.ones(shape, dtype=torch.bool), ("",) * shape[0])

    def step(self, model: nn.Module, batch: Batch, streams: Streams, step: int) -> Terms:
        assert isinstance(model, Responder)
        seen = Cells.of(batch)
        given, device, count = seen.given, seen.real.device, len(seen.real)
        gene_K = self._genes(model, streams, step).to(device)
        flow_MK, control_MK = (model.centred(x, given.level)[:, gene_K] for x in (seen.expression, given.control))
        drawn = self.time.assign(count, self.streams, streams.generator("time", step))
        times = {m: t.to(device) for m, t in drawn.times.items()}
        noise = streams.generator("noise", step)
        start = generate.noise_like(self, model, given, noise)[:, gene_K]
        real_MK = seen.real[:, None].expand(flow_MK.shape)
        points = {EXPRESSION: self.path.point(start, flow_MK, times[EXPRESSION])}
        asked = {EXPRESSION: real_MK}
        if LATENT in self.streams:
            latents = model.latents(seen.expression, given.level, gene_K)
            fresh = torch.randn(latents.z_NKD.shape, generator=noise).to(device)
            points[LATENT] = self.path.point(fresh, latents.z_NKD, times[LATENT])
            asked[LATENT] = real_MK & latents.covered_NK if self.latent_of == "covered" else real_MK
        fields = {
            "control": control_MK[..., None],
            "gene": gene_K.expand(count, -1),
            "perturbation": given.perturbation,
            "told": self._told(count, streams, step, model.training).to(device),
        }
        shown = {m: point.x_t[..., None] if m == EXPRESSION else point.x_t for m, point in points.items()}
        raw, aux = model(fields | shown, times, real_MK)
        raw = {m: x.float()[..., 0] if m == EXPRESSION else x.float() for m, x in raw.items()}
        found = {m: generate.velocity_of(self.path, points[m].x_t, times[m], raw[m]) for m in points}
        active = {m: rows.to(device) & seen.real for m, rows in drawn.active.items()}
        losses: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        for m, point in points.items():
            chosen, weight = (self.expression_loss, 1.0) if m == EXPRESSION else (self.latent_loss, self.latent_weight)
            for loss in chosen:
                # All that counts as one set: a mean over it, however many cells of the batch teach the stream.
                counts = (asked[m] & active[m][:, None]).flatten()[None]
                one = (found[m].flatten(0, 1)[None], point.velocity.flatten(0, 1)[None], counts)
                for name, value in loss(*one).items():
                    losses[f"{m}/{name}"], weights[f"{m}/{name}"] = value, weight
        if self.sample_loss is not None:
            ended_MK = generate.data_of(self.path, points[EXPRESSION].x_t, times[EXPRESSION], raw[EXPRESSION])
            group_M = torch.where(active[EXPRESSION], seen.group, -1)
            for name, value in self.sample_loss(ended_MK, flow_MK, group_M, group_M).items():
                losses[f"expression/{name}"], weights[f"expression/{name}"] = value, self.sample_weight
        return Terms(losses=losses, weights=weights, auxiliary=dict(aux.losses), stats=aux.stats)

    def guidance_of(self, stream: str, t: float) -> float:
        """The weight of guidance of a stream at a time."""
        if stream == EXPRESSION:
            return self.guidance if self.guided_from <= t < self.guided_to else 1.0
        return self.latent_guidance if self.latent_guided_from <= t < self.latent_guided_to else 1.0

    def _genes(self, model: Responder, streams: Streams, step: int) -> Tensor:
        """Genes of a step, in rising order."""
        if self.genes is None or self.genes >= model.count or not model.training:
            return torch.arange(model.count)
        order = torch.randperm(model.count, generator=streams.generator("genes", step))
        return order[: self.genes].sort().values

    def _told(self, count: int, streams: Streams, step: int, training: bool) -> Tensor:
        """Cells whose perturbation is told; all of them outside training."""
        draw = torch.rand(count, generator=streams.generator("forget", step))
        return draw >= self.forget if training else torch.ones(count, dtype=torch.bool)

    @torch.no_grad()
    def cells(
        self,
        model: Responder,
        given: Given,
        generator: torch.Generator,
        streams: Streams,
    ) -> dict[str, np.ndarray]:
        """Generated cells (M, G) as `expression`, and as `raw` before zeros were restored.

        Args:
            model: in evaluation mode.
            given: a control cell for each, the level of its stratum, and perturbations.
            generator: source of their noise.
            streams: source of the noise of the cells that zeros are calibrated with.
        """  # fmt: skip
        made_MG = generate.raw(self, model, given, generator)
        seed = int(streams.generator("zeros").initial_seed())
        return {"expression": with_zeros(made_MG, generate.calibrated(self, model, seed, given)), "raw": made_MG}

    def evaluate(self, model: nn.Module, source: Source, split: str, streams: Streams) -> Evaluation:
        assert isinstance(model, Responder)
        return evaluated(self, model, source, split, streams)

    def pictures(self, evaluation: Evaluation) -> Iterable[Picture]:
        return pictures(evaluation)

    def modes(self) -> Mapping[str, tuple[str, ...]]:
        return {"response": GIVEN}

    def generate(
        self, model: nn.Module, unit: Batch, mode: str, streams: Streams, *, index: int, draws: int, patch: int
    ) -> dict[str, np.ndarray]:
        assert isinstance(model, Responder)
        if draws < 1:
            raise UserError("--draws 0: cells are drawn, and no mean of them is predicted; ask for one draw or more")
        given = Cells.of(unit).given
        made = [
            self.cells(model, given, streams.generator(f"sample:{mode}", index, draw), streams) for draw in range(draws)
        ]
        return {name: np.stack([one[name] for one in made]) for name in made[0]}

    def layers(self) -> Mapping[str, tuple[str, ...]]:
        return layers_of(self)

    def embed(self, model: nn.Module, unit: Batch, layer: str, known: Collection[str], *, patch: int) -> np.ndarray:
        assert isinstance(model, Responder)
        return embed(self, model, unit, layer, patch)
