"""Arms that differ in one piece are compared on the same batches, times, noise and starting weights."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from core.cli.choose import resolve_run
from core.train.loop import Trainer
from core.train.streams import Dropout, Streams
from small import SMALL

GATES = ("none", "headwise", "elementwise")


def trainer(*words: str) -> Trainer:
    run = resolve_run([], [*SMALL, *words]).root
    return Trainer(
        system=run.system,
        source=run.data.open(),
        settings=run.train,
        strategy=run.strategy,
        device=torch.device("cpu"),
        seed=run.seed,
    )


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(("a", "b"), [(a, b) for a, b in product(GATES, GATES) if a < b])
def test_same_named_parameters_start_bit_equal(a: str, b: str) -> None:
    """Changing the gate changes no other parameter's first value."""
    left, right = (dict(trainer(f"--gate={g}").model.named_parameters()) for g in (a, b))
    shared = [n for n in left.keys() & right.keys() if left[n].shape == right[n].shape]
    assert len(shared) >= min(len(left), len(right)) - 4
    assert all(torch.equal(left[n], right[n]) for n in shared)
    assert any(left[n].std() > 0 for n in shared)


@pytest.mark.parametrize("ffn", ["dense", "moe4x2"])
def test_arms_see_the_same_batches_times_and_noise(ffn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reaches the network in the first steps is bit-equal, whatever the model drew in between."""
    arms = []
    for gate in GATES:
        arm = trainer(f"--gate={gate}", f"--ffn={ffn}", "--ffn.dropout=0.2", "--train.steps=4")
        seen: list[tuple[dict, dict]] = []

        def watch(module: object, given: tuple, seen: list = seen) -> None:
            fields, times, _ = given
            seen.append(({k: v.clone() for k, v in fields.items()}, {k: v.clone() for k, v in times.items()}))

        arm.model.register_forward_pre_hook(watch)
        for _ in range(4):
            arm.step()
        arms.append(seen)
    first = arms[0]
    assert len(first) == 4
    assert not torch.equal(first[0][0]["position"], first[1][0]["position"])
    for other in arms[1:]:
        assert all(equal(a[0], b[0]) and equal(a[1], b[1]) for a, b in zip(first, other, strict=True))


class Drawn(nn.Module):
    """Parameters of chosen sizes, drawn by chosen functions one after the other."""

    def __init__(self, **how: tuple[Callable[[Tensor], object], tuple[int, ...]]) -> None:
        super().__init__()
        self.draws = {name: draw for name, (draw, _) in how.items()}
        for name, (_, shape) in how.items():
            self.register_parameter(name, nn.Parameter(torch.zeros(shape)))

    def reset_parameters(self) -> None:
        for name, draw in self.draws.items():
            draw(self.get_parameter(name))


def fill_in_pieces(values: Tensor) -> None:
    for row in values:
        row.normal_()


def fill_by_copy(values: Tensor) -> None:
    values.copy_(torch.randn(values.shape).abs())


def fill_a_narrow_band(values: Tensor) -> None:
    nn.init.trunc_normal_(values, a=1.0, b=1.5)  # most draws are rejected and drawn again, aside


IN_PLACE = [nn.init.xavier_uniform_, nn.init.normal_, fill_in_pieces]
ASIDE = [nn.init.orthogonal_, fill_by_copy, nn.init.trunc_normal_, fill_a_narrow_band]


def start(module: nn.Module, seed: int = 5) -> dict[str, Tensor]:
    Streams(seed).initialise(module)
    return {name: values.detach().clone() for name, values in module.named_parameters()}


@settings(deadline=None, max_examples=60)
@given(
    draws=st.tuples(*[st.sampled_from([*IN_PLACE, *ASIDE])] * 2),
    sizes=st.tuples(*[st.integers(1, 6)] * 2),
    last=st.booleans(),
)
def test_a_sibling_of_another_shape_shifts_nothing(
    draws: tuple[Callable[[Tensor], object], ...], sizes: tuple[int, int], last: bool
) -> None:
    """What a parameter starts with does not depend on how many numbers its siblings take."""
    own, sibling = draws
    arms = []
    for size in sizes:
        pieces = {"sibling": (sibling, (size, 3)), "own": (own, (4, 5))}
        arms.append(start(Drawn(**(dict(reversed(pieces.items())) if last else pieces))))
    assert torch.equal(arms[0]["own"], arms[1]["own"])
    assert arms[0]["own"].std() > 0


@settings(deadline=None, max_examples=40)
@given(own=st.sampled_from([*IN_PLACE, *ASIDE]), sibling=st.sampled_from([*IN_PLACE, *ASIDE]), last=st.booleans())
def test_a_sibling_more_shifts_nothing(
    own: Callable[[Tensor], object], sibling: Callable[[Tensor], object], last: bool
) -> None:
    """A module may own a parameter more, and the others start bit-equal."""
    pieces = {"sibling": (sibling, (2, 3)), "own": (own, (4, 5))}
    both = start(Drawn(**(dict(reversed(pieces.items())) if last else pieces)))
    alone = start(Drawn(own=pieces["own"]))
    assert torch.equal(both["own"], alone["own"])


def test_first_values_follow_name_and_seed() -> None:
    """Two parameters drawn alike differ, and so do two seeds; the rows of one drawn in pieces differ too."""
    for draw in (*IN_PLACE, *ASIDE):
        first = start(Drawn(a=(draw, (3, 4)), b=(draw, (3, 4))))
        assert not torch.equal(first["a"], first["b"])
        assert not torch.equal(first["a"], start(Drawn(a=(draw, (3, 4)), b=(draw, (3, 4))), seed=6)["a"])
        assert len(first["a"].unique(dim=0)) == 3


def test_first_values_keep_their_distribution() -> None:
    """Keying every draw changes which numbers come, not how they are spread."""
    values = start(
        Drawn(a=(nn.init.normal_, (400, 50)), b=(fill_in_pieces, (400, 50)), c=(nn.init.uniform_, (400, 50)))
    )
    for name, mean, std in (("a", 0.0, 1.0), ("b", 0.0, 1.0), ("c", 0.5, 12**-0.5)):
        assert abs(values[name].mean() - mean) < 0.03
        assert abs(values[name].std() / std - 1) < 0.03


def test_seeds_differ_in_everything_random() -> None:
    """Another seed gives other weights, and another order of batches."""
    a, b = trainer("--seed=0"), trainer("--seed=1")
    weights = zip(a.model.named_parameters(), b.model.named_parameters(), strict=True)
    assert all(not torch.equal(p, q) for (n, p), (_, q) in weights if p.dim() >= 2)
    left, right = a.train_split.batch(0, 0), b.train_split.batch(0, 0)
    assert not torch.equal(left.fields["index"], right.fields["index"])


def test_the_global_generator_is_neither_read_nor_moved() -> None:
    """Steps and initialisation leave torch's global generator alone, and do not depend on it."""
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = trainer("--ffn=moe4x2", "--ffn.jitter=0.3")
    one.step()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    two = trainer("--ffn=moe4x2", "--ffn.jitter=0.3")
    two.step()
    assert equal(one.model.state_dict(), two.model.state_dict())


def test_dropout_is_a_function_of_seed_name_and_step() -> None:
    """The same step drops the same entries; steps, names and seeds do not share masks."""
    model = nn.ModuleDict({"a": Dropout(0.5), "b": Dropout(0.5)})
    x = torch.ones(64)

    def drawn(seed: int, step: int) -> list[Tensor]:
        Streams(seed).reseed(model, step)
        return [model["a"](x), model["b"](x)]

    first = drawn(0, 0)
    assert all(torch.equal(p, q) for p, q in zip(first, drawn(0, 0), strict=True))
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first[0], drawn(0, 1)[0])
    assert not torch.equal(first[0], drawn(1, 0)[0])
    kept = first[0][first[0] > 0]
    assert bool((kept == 2).all())
