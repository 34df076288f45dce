"""What the laws of several kinds draw: plugins, tensors, outcomes with gradients."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NoReturn, TypeAlias, TypeVar, Union

import attrs
import torch
from hypothesis import HealthCheck, reject, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor, nn

from core.kinds.plugin import Plugin
from core.params import in_force
from core.train.streams import Streams

P = TypeVar("P")
Drawable: TypeAlias = Union[P, SearchStrategy[P]]  # noqa: UP007 - `|` takes no type variable

law = settings(
    deadline=None,
    max_examples=14,
    # A configuration that contradicts itself is drawn again, and of some pieces most do.
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow, HealthCheck.filter_too_much],
)
seeds = st.integers(0, 2**32)


def drawn(data: st.DataObject, plugin: Drawable[P]) -> P:
    """A plugin as it stands, or one drawn from a strategy of plugins."""
    return data.draw(plugin, label="piece") if isinstance(plugin, SearchStrategy) else plugin


def built(cls: Callable[..., P], **fields: SearchStrategy) -> SearchStrategy[P]:
    """Plugins of a class; what is drawn of a parameter that does nothing beside the others is left out.

    Args:
        cls: a `@params` class.
        fields: strategies of its parameters.
    """
    return st.fixed_dictionaries(fields).map(lambda drawn: cls(**in_force(cls, drawn)))  # type: ignore[arg-type]


refused: ContextVar[str] = ContextVar("refused", default="")
"""what was said the last time that a draw was refused"""


def refuse(error: Exception) -> NoReturn:
    """Take another draw."""
    refused.set(str(error))
    reject()


@contextmanager
def refusals(plugin: Drawable[P]) -> Iterator[None]:
    """Take another draw where a plugin of a strategy refuses by a ValueError; one that stands fixed has to serve."""
    try:
        yield
    except ValueError as error:
        if isinstance(plugin, SearchStrategy):
            refuse(error)
        raise


def parts(plugin: Plugin) -> Iterator[Plugin]:
    """A plugin and all that fill its slots, at any depth."""
    yield plugin
    for field in attrs.fields(type(plugin)):  # type: ignore[arg-type]
        inside = getattr(plugin, field.name)
        for part in inside if isinstance(inside, tuple) else (inside,):
            if isinstance(part, Plugin):
                yield from parts(part)


def randn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard normal numbers that are a function of seed and shape, and not of the dtype."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def coins(seed: int, *shape: int, heads: float = 0.6) -> Tensor:
    """Bool tensor with a share of True."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < heads


def started(module: nn.Module, seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    """The module with the first values of a seed, in evaluation, in a dtype."""
    Streams(seed).initialise(module)
    return module.to(dtype).eval()


def gradients(out: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Gradients of a fixed uneven sum of `out`; zeros for inputs that it does not depend on."""
    if not (out.requires_grad and inputs):
        return [torch.zeros_like(i) for i in inputs]
    weights = torch.linspace(0.5, 1.5, out.numel(), dtype=out.dtype).view_as(out)
    return list(torch.autograd.grad((out * weights).sum(), inputs, allow_unused=True, materialize_grads=True))


def counted(what: str, said: int, found: int) -> None:
    """Assert that a piece's own count is what was counted, and tell both where it is not."""
    assert said == found, f"`{what}` says {said}, and counted are {found}"


def reached(module: nn.Module, slopes: Sequence[Tensor]) -> None:
    """Assert that each parameter has got a gradient, and name those that have not."""
    named = zip(module.named_parameters(), slopes, strict=True)
    missed = [name for (name, _), slope in named if not (slope != 0).any()]
    assert not missed, f"no gradient reaches {', '.join(missed)}"


def same_after_loading(module: nn.Module, fresh: nn.Module, run: Callable[[nn.Module], Sequence[Tensor]]) -> None:
    """Assert that a module that loads the state of another gives the same, bit for bit.

    Args:
        module: whose state is taken.
        fresh: as `build` gives it, with other first values.
        run: what a module gives.
    """
    fresh.load_state_dict(copy.deepcopy(module.state_dict()))
    close(run(fresh), run(module), tolerance=0.0)


def close(given: Sequence[Tensor], wanted: Sequence[Tensor], tolerance: float = 1e-9) -> None:
    """Assert that two lists of tensors agree; NaN agrees with nothing."""
    assert len(given) == len(wanted)
    for one, other in zip(given, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)
