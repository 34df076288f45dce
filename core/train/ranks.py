"""Several processes that share the sets of each batch, and go through a step as one process would.

Every rank draws the noise, the times and the dropout of the whole batch and takes the rows of its own sets; the network
runs on these rows alone; its outputs are gathered, and every rank computes the loss of the whole batch from them. So a
loss needs no rule for ranks, however it is normalised, and what is summed over tokens inside the network (the load of
experts) goes through `total`.

The loss is the same on every rank and each rank differentiates its own rows, `ranks` times: the mean of the ranks'
gradients, which is what data-parallel wrappers form, is then the gradient of the batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import attrs
import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.errors import RunFailed, UserError

PATIENCE = timedelta(minutes=10)
"""how long a rank waits for the others in one exchange before the run is given up"""
JOINING = timedelta(minutes=5)
"""how long a rank waits for the others to begin"""
LAUNCHED = "CELLCORE_LAUNCHED"
"""variable by which `core run` tells the processes that it starts its own number; it speaks when one is lost"""

Over = Literal["sets", "tokens", "pass"]


LOST = 76
"""exit status of a process that `core run` started and that lost another: whoever was lost is the one to be named"""


class LostRank(RunFailed):
    """Another process of the run ended or went silent."""

    def __init__(self) -> None:
        super().__init__("another process of this run ended, or is silent")
        if LAUNCHED in os.environ:
            self.args, self.exit_code = ("",), LOST


def started() -> int:
    """How many ranks a launcher (`core run` itself, torchrun) started, by its environment; 0 outside of one."""
    try:
        return int(os.environ["WORLD_SIZE"]) if "RANK" in os.environ else 0
    except (KeyError, ValueError):
        return 0


def rank() -> int:
    """Which of the started ranks this process is; 0 outside of a launcher."""
    return int(os.environ["RANK"]) if started() else 0


def orphaned() -> bool:
    """Whether the command that started this process is gone."""
    return LAUNCHED in os.environ and os.environ[LAUNCHED] != str(os.getppid())


@attrs.frozen
class Share:
    """The sets of one batch that a rank works on."""

    rank: int
    ranks: int
    sets: int
    """of the whole batch"""

    @property
    def idle(self) -> bool:
        """Whether there are fewer sets than ranks and none is left for this one: it repeats the first, uncounted."""
        begin, end = self._bounds(self.rank)
        return begin == end

    @property
    def rows(self) -> slice:
        return slice(0, 1) if self.idle else slice(*self._bounds(self.rank))

    def _bounds(self, rank: int) -> tuple[int, int]:
        return self.sets * rank // self.ranks, self.sets * (rank + 1) // self.ranks

    def sizes(self) -> list[int]:
        """Sets of each rank; they differ by one at most."""
        return [end - begin for begin, end in map(self._bounds, range(self.ranks))]

    def uniform(self, shape: tuple[int, ...], generator: torch.Generator, over: Over, device: torch.device) -> Tensor:
        """This rank's rows of what one process would draw from U[0, 1) for the whole batch.

        Args:
            shape: of this rank's rows.
            generator: at the same place on every rank.
            over: what the first axis counts: `sets`, or equally many rows of each; `tokens`, in the order of the sets;
                `pass`: the draw is one for all.
            device: where ranks may exchange numbers.

        Raises:
            ValueError: the first axis does not divide into the sets.
        """
        if over == "pass":
            return torch.rand(shape, generator=generator)
        if over == "tokens":
            leads = self._leads(shape[0], device)
            begin, whole = sum(leads[: self.rank]), sum(leads)
        else:
            own = self.rows.stop - self.rows.start
            each, rest = divmod(shape[0], own)
            if rest:
                raise ValueError(f"a module draws for {shape[0]} rows of {own} sets, which no number a set gives")
            begin, whole = each * self.rows.start, each * self.sets
        drawn = torch.rand((whole, *shape[1:]), generator=generator)[begin : begin + shape[0]]
        return drawn if len(drawn) == shape[0] else torch.full(shape, 0.5)

    def tokens(self, x: Tensor) -> tuple[Tensor, int]:
        """The rows of all ranks' tokens, in the order of the sets, and where this rank's begin; no gradient.

        Of a rank without sets of its own come none.
        """
        leads = self._leads(len(x), x.device)
        padded = x.new_zeros(max(leads), *x.shape[1:])
        if not self.idle:
            padded[: len(x)] = x.detach()
        parts = [torch.empty_like(padded) for _ in leads]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, leads, strict=True)]), sum(leads[: self.rank])

    def _leads(self, mine: int, device: torch.device) -> list[int]:
        told = torch.zeros(self.ranks, dtype=torch.int64, device=device)
        told[self.rank] = 0 if self.idle else mine
        dist.all_reduce(told)
        return [int(n) for n in told]


_share: Share | None = None  # no ContextVar: a backward pass on a GPU runs in threads of its own


def share() -> Share | None:
    """The share of the batch that is being worked on; None where this process has the batch to itself."""
    return _share


@contextmanager
def sharing(mine: Share) -> Iterator[None]:
    """Inside the block, forward and backward pass, the process works on a share of a batch."""
    global _share
    before, _share = _share, mine
    try:
        yield
    finally:
        _share = before


def total(x: Tensor) -> Tensor:
    """The sum of the ranks' `x`, the same on each, differentiable; `x` itself where nothing is shared.

    A rank without sets of its own adds nothing.
    """
    mine = _share
    return x if mine is None else _Total.apply(x, mine)


def gathered(x: Tensor) -> Tensor:
    """The rows of all ranks in the order of the sets, differentiable; `x` itself where nothing is shared."""
    mine = _share
    return x if mine is None else _Gathered.apply(x, mine)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mine: Share) -> Tensor:
        ctx.scale = 0.0 if mine.idle else float(mine.ranks)
        summed = torch.zeros_like(x) if mine.idle else x.detach().clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.scale, None


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mine: Share) -> Tensor:
        ctx.share = mine
        sizes = mine.sizes()
        padded = x.new_zeros(max(sizes), *x.shape[1:])
        padded[: len(x)] = x.detach()
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        mine = ctx.share
        own = grad[mine.rows]
        return (torch.zeros_like(own) if mine.idle else own * mine.ranks), None


class Shared(nn.Module):
    """A network that runs on this rank's sets: what goes in is cut, what comes out is gathered.

    Tensors among the arguments whose first axis counts the sets are cut, inside dictionaries and sequences too; tensors
    that come out are gathered. What layers say beside (`Aux`) is of the whole batch already and passes through.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, *given: Any, **named: Any) -> Any:
        mine = _share
        if mine is None:
            return self.network(*given, **named)

        def cut(x: Tensor) -> Tensor:
            return x[mine.rows] if x.dim() and len(x) == mine.sets else x

        out = self.network(*each(given, cut), **each(named, cut))
        return each(out, lambda x: gathered(x) if x.dim() else x)


def each(value: Any, do: Callable[[Tensor], Tensor]) -> Any:
    """A value with the tensors in it replaced, inside dictionaries, tuples and lists."""
    if isinstance(value, Tensor):
        return do(value)
    if isinstance(value, Mapping):
        return {key: each(inner, do) for key, inner in value.items()}
    if isinstance(value, (tuple, list)):
        return type(value)(each(inner, do) for inner in value)
    return value


def count_ranks(devices: int, strategy: str, many: bool) -> int:
    """How many ranks a run has.

    Args:
        devices: as asked for; 0: nobody asked.
        strategy: its name, for messages.
        many: whether the strategy runs several processes.

    Raises:
        UserError: what was asked for contradicts the strategy, or what torchrun started.
    """
    there = started()
    if devices and there and devices != there:
        raise UserError(
            f"--devices {devices}: torchrun started {there} processes; leave --devices out, or make them equal"
        )
    wanted = devices or there or 1
    if wanted > 1 and not many:
        said = f"--devices {devices}" if devices else f"torchrun started {there} processes"
        raise UserError(f"{said}: strategy {strategy} runs one process; choose --strategy ddp or --strategy fsdp2")
    return wanted


@contextmanager
def joined(ranks: int, device: torch.device) -> Iterator[None]:
    """Inside the block the started ranks can exchange numbers; nothing happens for one rank.

    Raises:
        LostRank: another rank ended, or did not answer in time.
    """
    if ranks < 2:
        yield
        return
    try:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=JOINING)
        if device.type != "cuda":
            dist.distributed_c10d._set_pg_timeout(PATIENCE)
        yield
        leave()
    except (dist.DistError, RuntimeError) as error:
        if not lost(error):
            raise
        raise LostRank from error


def leave() -> None:
    """Go on alone; what follows in this process may take as long as it takes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def lost(error: BaseException) -> bool:
    """Whether an error says that an exchange with other processes failed, which torch raises in several classes."""
    if not isinstance(error, RuntimeError):
        return False
    text = str(error).lower()
    return isinstance(error, dist.DistError) or any(
        word in text for word in ("gloo", "connection closed", "connection reset", "nccl", "timed out")
    )


def anyone(flag: bool, device: torch.device) -> bool:
    """Whether any rank says so; every rank gets the same answer."""
    if not dist.is_initialized():
        return flag
    told = torch.tensor([int(flag)], device=device)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    return bool(told.item())


def first_says(numbers: dict[str, float], device: torch.device) -> dict[str, float]:
    """The numbers of rank 0, on every rank; all ranks have the same names."""
    if not dist.is_initialized() or not numbers:
        return numbers
    told = torch.tensor([*numbers.values()], dtype=torch.float64, device=device)
    dist.broadcast(told, 0)
    return dict(zip(numbers, told.tolist(), strict=True))
