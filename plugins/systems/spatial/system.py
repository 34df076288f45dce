"""Joint diffusion of the expression and the coordinates of a set of cells.

A set is cells of one section. Both modalities are noised along a path, each at its own time, and one network predicts
the clean values of both (data prediction). With one modality clean the same network gives the conditionals: where does
a cell with this expression sit, and what does a cell at this place express.
After LUNA (doi:10.1101/2025.02.13.638045), with coordinates and expression treated alike.

B sets, N cells, G genes, P axes of space.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from core.errors import UserError
from core.kinds import (
    FFN,
    Attention,
    Aux,
    Backbone,
    Batch,
    Card,
    Encoder,
    Evaluation,
    FlowPath,
    Mask,
    Metric,
    Noise,
    Parts,
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
from core.nn.padding import blanked, centred, hiding
from core.params import group, knob, params, slot
from core.train.streams import Streams
from plugins.systems.spatial import baselines, embed, generate
from plugins.systems.spatial.checks import check
from plugins.systems.spatial.conditions import Condition, Told, labels_of
from plugins.systems.spatial.evaluation import evaluated
from plugins.systems.spatial.fields import MODALITIES
from plugins.systems.spatial.geometry import frames, mean_of, unfold
from plugins.systems.spatial.judge import TASKS
from plugins.systems.spatial.masking import Masking, Tokens, masked_losses
from plugins.systems.spatial.pictures import SPEARMAN, pictures
from plugins.systems.spatial.process import Grid, as_velocity, noise, schedule, see, shares


@params
class Spatial(System):
    """Joint diffusion of expression and 2-D or 3-D coordinates of the cells of a section."""

    trivial: ClassVar[tuple[str, ...]] = baselines.TRIVIAL
    scaled_by: ClassVar[str] = "ffn.ratio"
    sampled_by: ClassVar[tuple[str, ...]] = ("solver", "sampling", "grid", "readout", "draws")

    mode: Literal["joint", "expr_to_pos", "pos_to_expr"] = knob(
        "joint", "what is learned: both modalities and each from the other, or one from the other that is always given"
    )
    width: int = knob(128, "model width", ge=8)
    depth: int = knob(4, "layers", ge=1)
    dropout: float = knob(0.1, "share of each layer's output that is dropped in training", ge=0.0, lt=1.0)
    backbone: Backbone = slot("cells", "how the network is put together")
    encoder: Encoder = slot("cell", "cells become tokens")
    attention: Attention = slot("softmax", "cells read from each other")
    ffn: FFN = slot("dense", "each cell on its own")
    residual: Residual = slot("plain", "how a layer's output joins its input")
    position_head: Literal["coordinate", "edm"] = knob(
        "coordinate",
        "how places are read out: coordinates, or an embedding that is taken for its distances",
        acts="mode!=pos_to_expr",
    )
    embedding: int = knob(8, "axes of the embedding", ge=3, acts="position_head=edm")
    conditions: tuple[Condition, ...] | None = knob(
        None, "what else is known of the cells: cell_type, section, or both as cell_type,section"
    )
    recompute: bool = knob(
        False, "keep only the inputs of layers in training and compute the rest again: less memory", identity=False
    )
    path: FlowPath = slot("cosine", "how data turn into noise")
    position_path: FlowPath | None = slot(None, "another path for positions; none: the same")
    time: Time = slot("independent", "which times a training step visits")
    solver: Solver = slot("ddpm", "from noise to data")
    sampling: int = knob(50, "solver steps", ge=1)
    grid: Grid = knob("uniform", "where solver steps lie: evenly, finer at both ends, or finer late, near the data")
    readout: Literal["one_call", "mean_of"] = knob(
        "one_call", "the mean that is reported: predicted from noise alone, or that of several samples"
    )
    draws: int = knob(8, "samples of a mean", ge=2, acts="readout=mean_of")
    predicts: Literal["data", "velocity"] = knob(
        "data", "what the losses compare: clean values, or the velocities that they stand for at their noisy value"
    )
    expression_loss: tuple[ValueLoss, ...] = slot(("mse",), "how wrong predicted expression is")
    position_loss: tuple[ValueLoss, ...] = slot(("distance_mse", "mse"), "how wrong predicted positions are")
    expression_weight: float = knob(1.0, "weight of the expression loss", ge=0.0, acts="mode!=expr_to_pos")
    position_weight: float = knob(1.0, "weight of the position loss", ge=0.0, acts="mode!=pos_to_expr")
    masking: Masking = group("entries that are hidden in training and reconstructed")
    rotate: bool = knob(
        False,
        "turn and mirror each training set at random, for sections without a common frame; drop the loss mse then",
    )
    expression_dropout: float = knob(
        0.0, "share of expression values that a training step hides from the network (it sees their mean)", ge=0.0, lt=1
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
            "joint_coherence",
        ),
        "what the evaluation reports",
    )

    @property
    def headline(self) -> str:
        return (
            f"{TASKS['expression']}/pearson_gene" if self.mode == "pos_to_expr" else f"{TASKS['position']}/{SPEARMAN}"
        )

    def __attrs_post_init__(self) -> None:
        check(self)

    def rejects(self, piece: Plugin) -> str | None:
        if isinstance(piece, (Mask, Position)) and piece.indexed:
            known = "neighbours" if isinstance(piece, Mask) else "fourier"
            return f"the cells of a set come in no order; take one that goes by coordinates, such as `{known}`"
        if isinstance(piece, Time) and piece.staged:
            return (
                "expression and positions are sampled together and each from the other, in no order; take `independent`"
            )
        if isinstance(piece, Position) and piece.space() == 1:
            return "cells lie in a plane or in space and not on a line; take one that reads all coordinates: `fourier`"
        return None

    def build(self, card: Card) -> nn.Module:
        sizes = {"expression": card.sizes["genes"], "position": card.sizes["dims"]}
        learned = {m: sizes[m] for m in self.learned}
        outputs = learned | ({"position": self.embedding} if self.position_head == "edm" else {})
        parts = Parts(
            width=self.width,
            depth=self.depth,
            dropout=self.dropout,
            encoder=Told(self.encoder, self.conditions) if self.conditions else self.encoder,
            attention=self.attention,
            ffn=self.ffn,
            residual=self.residual,
            outputs=outputs,
            recompute=self.recompute,
        )
        network = self.backbone.build(card, parts)
        if self.masking.shape != "none":
            Tokens.into(network, learned)
        return network

    def example(self, card: Card) -> Batch:
        sizes = card.sizes
        shape = (sizes["sets_per_batch"], sizes["set_size"])
        fields = {
            "expression": torch.empty(*shape, sizes["genes"]),
            "position": torch.empty(*shape, sizes["dims"]),
            "cell_type": torch.full(shape, -1),
        }
        return Batch(fields, torch.ones(shape, dtype=torch.bool), ("",) * shape[0])

    def step(self, model: nn.Module, batch: Batch, streams: Streams, step: int) -> Terms:
        real = batch.real_BN
        data = {m: batch.fields[m] for m in MODALITIES}
        if self.rotate:
            data["position"] = data["position"] @ frames(data["position"], streams.generator("frame", step))
        hidden = hiding(real)
        data["position"] = centred(data["position"], hidden)
        drawn = self.time.assign(real.shape[0], self.learned, streams.generator("time", step))
        times = {m: t.to(real.device) for m, t in drawn.times.items()}
        fresh = noise({m: data[m] for m in self.learned}, hidden, streams.generator("noise", step))
        noisy = dict(data)
        if model.training and self.expression_dropout:
            # Hidden values become 0, the training mean; the loss still asks for the true ones.
            draw = torch.rand(data["expression"].shape, generator=streams.generator("expression_dropout", step))
            noisy["expression"] = data["expression"] * (draw >= self.expression_dropout).to(real.device)
        for m, t_B in times.items():
            alpha, sigma = shares(self.path_of(m), t_B)
            noisy[m] = alpha * noisy[m] + sigma * fresh[m]
        masked: Tree | None = None
        if self.masking.shape != "none" and model.training:
            # Masks are given in every step, empty ones too, so that every step gives every token a gradient.
            maskable = {m: noisy[m] for m in self.learned}
            masked = self.masking.draw(maskable, data["position"], real, step, streams.generator("mask", step))
        drop = streams.generator("condition", step) if model.training else None
        predicted, aux = self._denoise(model, noisy, times, batch, masked=masked, drop=drop)
        losses: dict[str, Tensor] = {}
        weights: dict[str, float] = {}
        auxiliary = dict(aux.losses)
        for m in self.learned:
            chosen, weight = self._losses(m)
            found, true = predicted[m].float(), data[m]
            true = nn.functional.pad(true, (0, found.shape[-1] - true.shape[-1]))
            if masked is not None:
                extra = masked_losses(m, chosen, found, true, masked[m], real)
                auxiliary |= {f"masked/{m}/{name}": self.masking.weight * v for name, v in extra.items()}
            # A modality that a set was given clean, or that it is not to teach, is no task there.
            asked = real & drawn.active[m].to(real.device)[:, None]
            if self.predicts == "velocity":
                found, true, asked = self._velocities(m, found, true, asked, times[m], masked)
            for loss in chosen:
                for name, value in loss(found, true, asked).items():
                    losses[f"{m}/{name}"], weights[f"{m}/{name}"] = value, weight
        return Terms(losses=losses, weights=weights, auxiliary=auxiliary, stats=aux.stats)

    def _velocities(
        self, m: str, found: Tensor, true: Tensor, asked: Tensor, t_B: Tensor, masked: Tree | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Prediction, truth and cells asked for, in terms of velocity; what is hidden has none and is left out."""
        if masked is not None and m == "position":
            asked = asked & ~masked[m][..., 0]
        elif masked is not None:
            found = torch.where(masked[m], true, found)
        return as_velocity(self.path_of(m), t_B, found), as_velocity(self.path_of(m), t_B, true), asked

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
        start, more, predict = self._conditional(model, batch, wanted, generator)

        def field(state: Tree, t: float) -> Tree:
            t_B = torch.full(batch.real_BN.shape[:1], t, device=batch.real_BN.device)
            found = predict(state, t)
            return {m: self.path_of(m).convert(state[m], t_B, found[m], "data", self.solver.wants) for m in wanted}

        times = schedule(self.grid, self.sampling)
        return self.solver.solve(field, start, times, paths={m: self.path_of(m) for m in wanted}, noise=more)

    def expect(self, model: nn.Module, batch: Batch, wanted: tuple[str, ...], generator: torch.Generator) -> Tree:
        """The mean of the `wanted` modalities given the others, by `readout`.

        A mean is closer to the truth than any one sample, and less varied than the truth. `one_call` is the data
        prediction from noise alone; `mean_of` averages `draws` samples, each turned onto the first where places have
        no frame in common.
        """
        if self.readout == "mean_of":
            drawn = [self.sample(model, batch, wanted, generator) for _ in range(self.draws)]
            return mean_of(drawn, align=self.aligns)
        start, _, predict = self._conditional(model, batch, wanted, generator)
        return predict(start, 0.0)

    def _conditional(
        self, model: nn.Module, batch: Batch, wanted: tuple[str, ...], generator: torch.Generator
    ) -> tuple[Tree, Noise, Callable[[Tree, float], Tree]]:
        """Noise to start from, the source of further noise, and the data prediction of the wanted modalities.

        Raises:
            UserError: the mode trains no prediction of what is wanted.
        """
        beyond = [m for m in wanted if m not in self.learned]
        if beyond:
            raise UserError(
                f"a model trained with mode = {self.mode} makes {self.learned[0]} alone, and {beyond[0]} was asked "
                "for; train one with --mode joint"
            )
        real, hidden = batch.real_BN, hiding(batch.real_BN)
        given = {m: batch.fields[m] for m in MODALITIES if m not in wanted}
        if "position" in given:
            given["position"] = centred(given["position"], hidden)  # as in training

        def more(like: Tree) -> Tree:
            return noise(like, hidden, generator)

        def predict(state: Tree, t: float) -> Tree:
            times = {m: torch.full(real.shape[:1], t if m in wanted else 1.0, device=real.device) for m in self.learned}
            predicted, _ = self._denoise(model, state | given, times, batch)
            found = {m: predicted[m].float() for m in wanted}
            if self.position_head == "edm" and "position" in wanted:
                # The noisy places lie on the embedding's first axes, so these have the frame that a sample goes on in.
                z_BNK, dims = found["position"], state["position"].shape[-1]
                found["position"] = unfold(z_BNK, dims, z_BNK[..., :dims])
            return found

        return more({m: batch.fields[m] for m in wanted}), more, predict

    def evaluate(self, model: nn.Module, source: Source, split: str, streams: Streams) -> Evaluation:
        return evaluated(self, model, source, split, streams)

    def pictures(self, evaluation: Evaluation) -> Iterable[Picture]:
        return pictures(evaluation)

    @property
    def learned(self) -> tuple[str, ...]:
        """The modalities that are predicted, in their fixed order; the others are always given."""
        return {"joint": MODALITIES, "expr_to_pos": ("position",), "pos_to_expr": ("expression",)}[self.mode]

    @property
    def aligns(self) -> bool:
        """Whether several draws of positions have no frame in common."""
        return self.rotate or self._pose_free

    @property
    def _pose_free(self) -> bool:
        """Whether no loss fixes the frame of positions."""
        return all(loss.pose_free for loss in self.position_loss)

    def modes(self) -> Mapping[str, tuple[str, ...]]:
        return {mode: given for mode, given in generate.MODES.items() if {*generate.MADE[mode]} <= {*self.learned}}

    def generate(
        self, model: nn.Module, unit: Batch, mode: str, streams: Streams, *, index: int, draws: int, patch: int
    ) -> dict[str, np.ndarray]:
        return generate.generate(self, model, unit, mode, streams, index=index, draws=draws, patch=patch)

    def layers(self) -> Mapping[str, tuple[str, ...]]:
        """As `System.layers`; what a mode always gives must be there."""
        needed = tuple(m for m in MODALITIES if m == "expression" or m not in self.learned)
        return dict.fromkeys(embed.LAYERS, needed)

    def embed(self, model: nn.Module, unit: Batch, layer: str, known: Collection[str], *, patch: int) -> np.ndarray:
        return embed.embed(model, unit, layer, known, patch=patch)

    def path_of(self, modality: str) -> FlowPath:
        return self.position_path if modality == "position" and self.position_path is not None else self.path

    def _losses(self, modality: str) -> tuple[tuple[ValueLoss, ...], float]:
        """Losses of a modality and their weight."""
        if modality == "position":
            return self.position_loss, self.position_weight
        return self.expression_loss, self.expression_weight

    def _denoise(
        self,
        model: nn.Module,
        noisy: Tree,
        times: dict[str, Tensor],
        batch: Batch,
        *,
        masked: Tree | None = None,
        drop: torch.Generator | None = None,
    ) -> tuple[Tree, Aux]:
        """Data predictions: what the noisy value says by itself, plus what the network adds (`Seen`).

        Args:
            model: the network.
            noisy: both modalities; those without a time are clean.
            times: of the learned modalities.
            batch: its real cells and what conditions read.
            masked: entries of the learned modalities that are hidden; None where the network knows no masks.
            drop: withholds conditions from some sets.

        Returns:
            Predictions of the learned modalities, positions centred over the real cells (with `edm` an embedding whose
            distances are those of the positions), and what the layers say beside them.
        """
        real = batch.real_BN
        seen = {m: see(self.path_of(m), noisy[m], t_B) for m, t_B in times.items()}
        extra: dict[str, Tree] = {}
        if masked is not None:
            seen = {m: one.hide(masked[m]) for m, one in seen.items()}
            extra["masked"] = masked
        shown = noisy | {m: one.alone_BNF for m, one in seen.items()}
        labels = labels_of(model) if self.conditions else None
        if labels is not None:
            shown |= labels.codes(batch, drop)
        told = {m: times.get(m, torch.ones_like(next(iter(times.values())))) for m in MODALITIES}
        raw, aux = model(shown, told, real, **extra)
        hidden = hiding(real)
        out = {m: one.data(raw[m]) for m, one in seen.items()}
        return {m: (centred if m == "position" else blanked)(x, hidden) for m, x in out.items()}, aux
