"""Named random streams: what is drawn for one purpose never shifts what is drawn for another.

Every draw is keyed by (purpose, seed, index), never by how many numbers were drawn before, so two arms of an ablation
see the same batches, times and noise, and a resumed run needs no generator state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import attrs
import torch
from torch import Tensor, nn

from core.train.initial import initialise
from core.train.ranks import Over, share


def stream_seed(purpose: str, seed: int, *index: int) -> int:
    """63 bits keyed by SHA-256 of purpose, seed and index."""
    text = "\x1f".join([purpose, str(seed), *map(str, index)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@attrs.frozen
class Streams:
    """The random streams of one seed: `order`, `init:<parameter>`, `dropout:<module>`, `noise`, `time`, `eval`."""

    seed: int

    def generator(self, purpose: str, *index: int) -> torch.Generator:
        """A CPU generator for a purpose; `index` is a step, an epoch, a unit."""
        return torch.Generator().manual_seed(stream_seed(purpose, self.seed, *index))

    def initialise(self, model: nn.Module) -> None:
        """Give every parameter its first value, drawn from the stream of its qualified name.

        Same-named, same-shaped parameters of two models are bit-equal for one seed, whatever else the models hold. The
        global generator is left as it was.

        Raises:
            TypeError: a module owns parameters and has no `reset_parameters`.
        """
        initialise(model, lambda purpose, *index: stream_seed(purpose, self.seed, *index))

    def reseed(self, model: nn.Module | Mapping[str, Stochastic], step: int) -> None:
        """Put every random module of a model, or those that `stochastic` found in it, at its place for a step."""
        for name, module in (stochastic(model) if isinstance(model, nn.Module) else model).items():
            module.reseed(name, self.seed, step)


class Stochastic(nn.Module):
    """A module that draws numbers, from a generator of its own that the trainer reseeds at every step."""

    def __init__(self) -> None:
        super().__init__()
        self._generator = torch.Generator()
        self._place: tuple[str, int, int] | None = None

    def reseed(self, name: str, seed: int, step: int) -> None:
        """The next draw begins the module's stream of this seed and step; one that never comes costs nothing."""
        # Not by setattr, in which a module first looks through its parameters: there are dozens of these a step.
        self.__dict__["_place"] = (name, seed, step)

    def mark(self) -> tuple[tuple[str, int, int] | None, Tensor]:
        """Where the module's stream stands, for `go_back`."""
        return self._place, self._generator.get_state()

    def go_back(self, mark: tuple[tuple[str, int, int] | None, Tensor]) -> None:
        """The next draw is the one that followed `mark`."""
        self.__dict__["_place"] = mark[0]
        self._generator.set_state(mark[1])

    def uniform(self, shape: torch.Size | tuple[int, ...], like: Tensor, over: Over = "sets") -> Tensor:
        """U[0, 1) of a shape on `like`'s device, drawn on the CPU so that devices agree.

        Args:
            shape: of the draw.
            like: tells the device.
            over: what the first axis counts (`core.train.ranks.Share.uniform`), so that processes that share a batch
                draw what one process would.
        """
        if like.is_meta:
            return torch.empty(shape, device="meta")
        if self._place is not None:
            name, seed, step = self._place
            self._generator.manual_seed(stream_seed(f"dropout:{name}", seed, step))
            self._place = None
        mine = share()
        if mine is not None:
            return mine.uniform(tuple(shape), self._generator, over, like.device).to(like.device)
        return torch.rand(shape, generator=self._generator).to(like.device)


def stochastic(model: nn.Module) -> dict[str, Stochastic]:
    """The random modules of a model, by name; a trainer looks for them once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Stochastic)}


class Dropout(Stochastic):
    """Inverted dropout on the module's own stream (Srivastava et al. 2014)."""

    def __init__(self, rate: float, over: Over = "sets") -> None:
        super().__init__()
        self.rate, self.over = rate, over

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        kept = self.uniform(x.shape, x, self.over).ge_(self.rate).to(x.dtype)  # in place: memory costs more than sums
        return (x * kept).div_(1.0 - self.rate)
