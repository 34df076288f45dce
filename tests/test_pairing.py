"""Arms that differ in one piece are compared on the same batches, times, noise and starting weights."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

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
            arm._step()
        arms.append(seen)
    first = arms[0]
    assert len(first) == 4
    assert not torch.equal(first[0][0]["position"], first[1][0]["position"])
    for other in arms[1:]:
        assert all(equal(a[0], b[0]) and equal(a[1], b[1]) for a, b in zip(first, other, strict=True))


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
    one._step()
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    two = trainer("--ffn=moe4x2", "--ffn.jitter=0.3")
    two._step()
    assert equal(one.model.state_dict(), two.model.state_dict())


def test_dropout_is_a_function_of_seed_name_and_step() -> None:
    """The same step drops the same entries; steps, names and seeds do not share masks."""
    model = torch.nn.ModuleDict({"a": Dropout(0.5), "b": Dropout(0.5)})
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
