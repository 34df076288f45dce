"""What every backbone must do. B sets, N items of a set.

@pytest.mark.parametrize("backbone", [Cells()], ids=repr)
class TestBackbones(BackboneLaws):
    def card(self, draw): ...
    def shapes(self, card): ...
    def parts(self, draw): ...
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from core.kinds import Aux, Backbone, Card, Parts
from core.testing.draws import Drawable, close, coins, drawn, law, randn, same_after_loading, seeds, started
from core.train.streams import Streams

few = settings(law, max_examples=3)
sizes = st.integers(1, 3)
items = st.integers(1, 6)
WILD = (1e6, float("nan"), float("inf"))
"""what padding may hold"""


class BackboneLaws:
    """Laws of `core.kinds.backbone.Backbone`; parametrise a subclass over `backbone` and say what it is built from.

    Fields that are no normal numbers, such as codes, come of a `drawn` of one's own.
    """

    of_sets: ClassVar[frozenset[str]] = frozenset()
    """fields (B, ...) that are of a set and not of its items"""

    def card(self, draw: st.DataObject) -> Card:
        """A card with the sizes that the backbone needs."""
        raise NotImplementedError

    def shapes(self, card: Card) -> dict[str, tuple[int, ...]]:
        """Shape of one item by modality."""
        raise NotImplementedError

    def parts(self, draw: st.DataObject, card: Card) -> Parts:
        """Small parts, drawn, and which modalities are to be predicted."""
        raise NotImplementedError

    @few
    @given(data=st.data(), sets=sizes, count=items, seed=seeds)
    def test_shapes(self, backbone: Drawable[Backbone], data: st.DataObject, sets: int, count: int, seed: int) -> None:
        """Each output has the numbers that were asked for, in float32 and float64, and is finite."""
        card = self.card(data)
        parts = self.parts(data, card)
        network = started(drawn(data, backbone).build(card, parts), seed)
        for dtype in (torch.float64, torch.float32):
            fields, times = self.drawn(card, sets, count, seed)
            outputs, _ = network.to(dtype)(
                {k: v.to(dtype) if v.is_floating_point() else v for k, v in fields.items()},
                {k: v.to(dtype) for k, v in times.items()},
                torch.ones(sets, count, dtype=torch.bool),
            )
            shapes = {k: (sets, count, size) for k, size in parts.outputs.items()}
            assert {k: tuple(v.shape) for k, v in outputs.items()} == shapes
            assert all(torch.isfinite(v).all() for v in outputs.values())

    @few
    @given(data=st.data(), sets=sizes, count=items, seed=seeds)
    def test_order(self, backbone: Drawable[Backbone], data: st.DataObject, sets: int, count: int, seed: int) -> None:
        """Permuting the items of a set permutes the outputs."""
        card, network = self.built(backbone, data, seed)
        fields, times = self.drawn(card, sets, count, seed)
        real_BN = torch.ones(sets, count, dtype=torch.bool)
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
        moved, _ = network(self.items(fields, lambda v: v[:, order]), times, real_BN)
        there, _ = network(fields, times, real_BN)
        close([*moved.values()], [v[:, order] for v in there.values()], 1e-7)

    @few
    @given(data=st.data(), sets=sizes, count=items, extra=items, wild=st.sampled_from(WILD), seed=seeds)
    def test_padding(
        self,
        backbone: Drawable[Backbone],
        data: st.DataObject,
        sets: int,
        count: int,
        extra: int,
        wild: float,
        seed: int,
    ) -> None:
        """Appended padding changes no output, loss, statistic or gradient, whatever it holds."""
        card, network = self.built(backbone, data, seed)
        fields, times = self.drawn(card, sets, count, seed)
        plain = self.outcome(network, fields, times, torch.ones(sets, count, dtype=torch.bool))
        real_BN = (torch.arange(count + extra) < count).expand(sets, -1)

        def padded(v: Tensor) -> Tensor:
            return torch.cat([v, v.new_full((sets, extra, *v.shape[2:]), _wild(v, wild))], 1)

        longer = self.items(fields, padded)
        close(self.outcome(network, longer, times, real_BN), plain, 1e-7)

    @few
    @given(data=st.data(), sets=sizes, count=items, wild=st.sampled_from(WILD), seed=seeds)
    def test_padding_anywhere(
        self, backbone: Drawable[Backbone], data: st.DataObject, sets: int, count: int, wild: float, seed: int
    ) -> None:
        """What padding holds changes nothing wherever it lies, also in a set without a real item."""
        card, network = self.built(backbone, data, seed)
        fields, times = self.drawn(card, sets, count, seed)
        real_BN = coins(seed + 9, sets, count)
        planted = self.items(fields, lambda v: torch.where(_over(real_BN, v), v, _wild(v, wild)))
        close(self.outcome(network, planted, times, real_BN), self.outcome(network, fields, times, real_BN), 1e-7)

    @few
    @given(data=st.data(), sets=st.integers(2, 3), count=items, seed=seeds)
    def test_batch(self, backbone: Drawable[Backbone], data: st.DataObject, sets: int, count: int, seed: int) -> None:
        """In evaluation a set is served as if it were alone."""
        card, network = self.built(backbone, data, seed)
        fields, times = self.drawn(card, sets, count, seed)
        real_BN = torch.ones(sets, count, dtype=torch.bool)
        whole, _ = network(fields, times, real_BN)
        for b in range(sets):
            one = slice(b, b + 1)
            alone, _ = network(
                {k: v[one] for k, v in fields.items()}, {k: v[one] for k, v in times.items()}, real_BN[one]
            )
            close([*alone.values()], [v[one] for v in whole.values()], 1e-7)

    @few
    @given(data=st.data(), seed=seeds)
    def test_gradients(self, backbone: Drawable[Backbone], data: st.DataObject, seed: int) -> None:
        """Over some first values the gradient of outputs and losses reaches every parameter that asks for one."""
        card, network = self.built(backbone, data, seed)
        reached: set[str] = set()
        network.train()
        for first in range(seed, seed + 16):
            with torch.no_grad():
                for i, parameter in enumerate(network.parameters()):  # what starts at 0 hides what lies behind it
                    parameter.add_(0.1 * randn(first + i, *parameter.shape))
            fields, times = self.drawn(card, 3, 8, first)
            real_BN = torch.ones(3, 8, dtype=torch.bool)
            grads = self.outcome(network, fields, times, real_BN)[-self._count(network) :]
            reached |= {n for (n, _), g in zip(self._trained(network), grads, strict=True) if bool((g != 0).any())}
            if len(reached) == len([*self._trained(network)]):
                break
        missed = {n for n, _ in self._trained(network)} - reached
        assert not missed, f"no gradient reaches {', '.join(sorted(missed))}"

    @few
    @given(data=st.data(), sets=sizes, count=st.integers(3, 6), seed=seeds)
    def test_times(self, backbone: Drawable[Backbone], data: st.DataObject, sets: int, count: int, seed: int) -> None:
        """Another time gives other outputs."""
        card, network = self.built(backbone, data, seed)
        fields, times = self.drawn(card, sets, count, seed)
        real_BN, told = torch.ones(sets, count, dtype=torch.bool), []
        for t in (0.2, 0.5, 0.8):
            times = {k: torch.full((sets,), t, dtype=torch.float64) for k in times}
            told.append(torch.cat([v.flatten() for v in network(fields, times, real_BN)[0].values()]))
        assert any(not torch.equal(told[0], other) for other in told[1:])

    @few
    @given(data=st.data(), sets=sizes, count=items, seed=seeds)
    def test_randomness(
        self, backbone: Drawable[Backbone], data: st.DataObject, sets: int, count: int, seed: int
    ) -> None:
        """In training a step's numbers come from the module's own streams, and the global state stays untouched."""
        card, network = self.built(backbone, data, seed)
        network.train()
        fields, times = self.drawn(card, sets, count, seed)
        real_BN, before, told = torch.ones(sets, count, dtype=torch.bool), torch.get_rng_state(), []
        for _ in range(2):
            Streams(seed).reseed(network, step=3)
            told.append(self.outcome(network, fields, times, real_BN))
        assert torch.equal(torch.get_rng_state(), before)
        close(told[1], told[0], tolerance=0.0)

    @few
    @given(data=st.data(), sets=sizes, count=items, seed=seeds)
    def test_state(self, backbone: Drawable[Backbone], data: st.DataObject, sets: int, count: int, seed: int) -> None:
        """A network that loads the state of another is that network."""
        card, plugin = self.card(data), drawn(data, backbone)
        parts = self.parts(data, card)
        fields, times = self.drawn(card, sets, count, seed)
        real_BN = torch.ones(sets, count, dtype=torch.bool)
        network, fresh = (started(plugin.build(card, parts), s) for s in (seed, seed + 1))
        same_after_loading(network, fresh, lambda one: [*one(fields, times, real_BN)[0].values()])

    @few
    @given(data=st.data())
    def test_meta(self, backbone: Drawable[Backbone], data: st.DataObject) -> None:
        """It builds and runs without memory, in training."""
        card = self.card(data)
        given = self.drawn(card, 2, 3, seed=0)
        with torch.device("meta"):
            parts = self.parts(data, card)
            network = drawn(data, backbone).build(card, parts)
            outputs, _ = network(*(_on_meta(v) for v in given), torch.ones(2, 3, dtype=torch.bool))
        assert all(outputs[k].is_meta and outputs[k].shape == (2, 3, size) for k, size in parts.outputs.items())

    def built(self, backbone: Drawable[Backbone], data: st.DataObject, seed: int) -> tuple[Card, nn.Module]:
        """A drawn card and a network for it in float64, in evaluation."""
        card = self.card(data)
        return card, started(drawn(data, backbone).build(card, self.parts(data, card)), seed)

    def drawn(self, card: Card, sets: int, count: int, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Fields and times."""
        fields = {k: randn(seed + i, sets, count, *shape) for i, (k, shape) in enumerate(self.shapes(card).items())}
        generator = torch.Generator().manual_seed(seed)
        return fields, {k: torch.rand(sets, generator=generator, dtype=torch.float64) for k in fields}

    def items(self, fields: dict[str, Tensor], change: Callable[[Tensor], Tensor]) -> dict[str, Tensor]:
        """The fields, those of items changed."""
        return {k: v if k in self.of_sets else change(v) for k, v in fields.items()}

    def outcome(
        self, network: nn.Module, fields: dict[str, Tensor], times: dict[str, Tensor], real_BN: Tensor
    ) -> list[Tensor]:
        """Outputs of real items, losses and statistics by name, and the gradient of an uneven sum of these."""
        outputs, aux = network(fields, times, real_BN)
        assert isinstance(aux, Aux)
        told = [outputs[k][real_BN] for k in sorted(outputs)] + [aux.losses[k] for k in sorted(aux.losses)]
        total = sum(
            (v * torch.linspace(0.5, 1.5, v.numel(), dtype=v.dtype).view_as(v)).sum() for v in told if v.requires_grad
        )
        trained = [p for _, p in self._trained(network)]
        grads = torch.autograd.grad(total, trained, allow_unused=True, materialize_grads=True)
        return [t.detach() for t in [*told, *(aux.stats[k] for k in sorted(aux.stats))]] + [*grads]

    def _trained(self, network: nn.Module) -> list[tuple[str, nn.Parameter]]:
        return [(n, p) for n, p in network.named_parameters() if p.requires_grad]

    def _count(self, network: nn.Module) -> int:
        return len(self._trained(network))


def _wild(like: Tensor, wild: float) -> float | int:
    """What padding may hold where a field is of numbers, or of codes."""
    return wild if like.is_floating_point() else -(2**31)


def _on_meta(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {k: (v.float() if v.is_floating_point() else v).to("meta") for k, v in tensors.items()}


def _over(real_BN: Tensor, x: Tensor) -> Tensor:
    return real_BN.reshape(*real_BN.shape, *[1] * (x.ndim - 2))
