"""What every system must do.

@pytest.mark.parametrize("words", [["--attention=linear"], ...], ids=str)
class TestSpatial(SystemLaws):
    def trainer(self, words): ...
"""

from __future__ import annotations

import math

import numpy as np
import torch

from core.kinds import Batch
from core.score import MODEL
from core.train.cost import measure
from core.train.loop import Trainer
from core.train.streams import Streams


class SystemLaws:
    """Laws of `core.kinds.system.System`; parametrise a subclass over `words`, configurations of the system."""

    def trainer(self, words: list[str]) -> Trainer:
        """A trainer of a small configuration without dropout."""
        raise NotImplementedError

    def test_every_parameter_gets_a_gradient(self, words: list[str]) -> None:
        """A few steps reach every parameter of the built model with a gradient that is not zero throughout."""
        trainer = self.trainer(words)
        reached: set[str] = set()
        for draw in range(4):
            trainer.model.zero_grad(set_to_none=True)
            trainer.system.step(trainer.model, _batch(trainer), Streams(draw), draw).total().backward()
            grads = {n: p.grad for n, p in trainer.model.named_parameters()}
            assert [n for n, g in grads.items() if g is None] == []
            reached |= {n for n, g in grads.items() if g is not None and bool((g != 0).any())}
            trainer.optimiser.step()  # what starts at zero hides what lies behind it until it has moved
        assert {n for n, _ in trainer.model.named_parameters()} - reached == set()

    def test_a_step_depends_on_model_batch_and_streams_alone(self, words: list[str]) -> None:
        """The same step again gives the same numbers, whatever was drawn elsewhere in between."""
        trainer = self.trainer(words)
        batch = _batch(trainer)
        first = trainer.system.step(trainer.model, batch, Streams(1), 3)
        torch.rand(7)
        trainer.system.step(trainer.model, batch, Streams(2), 4)
        again = trainer.system.step(trainer.model, batch, Streams(1), 3)
        assert first.losses.keys() == again.losses.keys()
        assert all(torch.equal(first.losses[k], again.losses[k]) for k in first.losses)
        other = trainer.system.step(trainer.model, batch, Streams(1), 5)
        assert not torch.equal(first.total(), other.total())

    def test_the_content_of_padding_changes_nothing(self, words: list[str]) -> None:
        """Losses, statistics and gradients are those of the real items, whatever padded ones hold."""
        trainer = self.trainer(words)
        batch = _batch(trainer)
        real = batch.real_BN.clone()
        real[:, real.shape[1] // 2 :] = False
        told = []
        for content in (0.0, 1e6):
            fields = {
                k: torch.where(real.reshape(*real.shape, *[1] * (v.ndim - 2)), v, torch.full_like(v, content))
                for k, v in batch.fields.items()
            }
            trainer.model.zero_grad(set_to_none=True)
            terms = trainer.system.step(trainer.model, Batch(fields, real, batch.units), Streams(1), 0)
            terms.total().backward()
            grads = [p.grad for p in trainer.model.parameters() if p.grad is not None]
            told.append([*terms.losses.values(), *terms.stats.values(), *grads])
        for one, other in zip(*told, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)

    def test_cost_is_that_of_the_real_model(self, words: list[str]) -> None:
        """Counting on meta tensors finds the parameters of the real model, and a positive number of FLOPs."""
        trainer = self.trainer(words)
        cost = measure(trainer.system, trainer.source.describe())
        assert cost.parameters == sum(p.numel() for p in trainer.model.parameters())
        assert cost.flops > 0
        assert 0 < cost.active <= cost.parameters

    def test_the_headline_is_a_score_of_the_model(self, words: list[str]) -> None:
        """What a comparison is decided by unless its plan says otherwise is scored, and is a number."""
        trainer = self.trainer(words)
        evaluation = trainer.system.evaluate(trainer.model, trainer.source, "test", trainer.streams)
        own = {f"{s.task}/{s.metric}": s.value for s in evaluation.scores if s.arm == MODEL}
        assert trainer.system.headline in own
        assert math.isfinite(own[trainer.system.headline])

    def test_what_is_generated_is_a_function_of_the_streams(self, words: list[str]) -> None:
        """Each mode makes finite draws of every item, the same ones for the same streams; whole or in patches."""
        trainer = self.trainer(words)
        model, unit = trainer.model.eval(), next(iter(trainer.source.split("test", Streams(0)).units()))
        items = unit.real_BN.shape[1]
        for mode in trainer.system.modes():
            for patch in (items, max(8, items // 3)):
                one, same, other = (
                    trainer.system.generate(model, unit, mode, Streams(seed), index=0, draws=2, patch=patch)
                    for seed in (0, 0, 1)
                )
                assert one
                for field, values_KNF in one.items():
                    assert values_KNF.shape[:2] == (2, items)
                    assert np.isfinite(values_KNF).all()
                    np.testing.assert_array_equal(values_KNF, same[field])
                    assert not np.array_equal(values_KNF, other[field])
                    assert not np.array_equal(values_KNF[0], values_KNF[1])

    def test_every_item_is_embedded(self, words: list[str]) -> None:
        """Each layer gives each item a finite vector, whether all or only the fields that it must have are known."""
        trainer = self.trainer(words)
        model, unit = trainer.model.eval(), next(iter(trainer.source.split("test", Streams(0)).units()))
        for layer, needs in trainer.system.layers().items():
            for known in (needs, tuple(unit.fields)):
                vectors_ND = trainer.system.embed(model, unit, layer, known, patch=unit.real_BN.shape[1])
                assert vectors_ND.shape[0] == unit.real_BN.shape[1]
                assert np.isfinite(vectors_ND).all()
                assert vectors_ND.std(0).max() > 0


def _batch(trainer: Trainer) -> Batch:
    return trainer.train_split.batch(0, 0)
