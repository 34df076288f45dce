"""First values of parameters, each drawn from the stream of its own name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

SeedOf = Callable[..., int]
"""(purpose, *index) -> seed of a generator"""


def initialise(model: nn.Module, seed_of: SeedOf) -> None:
    """Let every module that owns parameters draw them anew, each parameter from `init:<qualified name>`.

    What a parameter starts with depends on its name, its shape and the seed, not on its siblings: before each random
    operation the global generator is put at the stream of the parameter that is drawn. Where numbers are drawn aside
    and copied into it (`nn.init.orthogonal_`, the rejections of `nn.init.trunc_normal_`), they are its own too; to know
    for which parameter they are, the module is asked once more for each.

    Raises:
        TypeError: a module owns parameters and has no `reset_parameters`.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        for prefix, module in model.named_modules():
            own = dict(module.named_parameters(recurse=False))
            if not own:
                continue
            reset = getattr(module, "reset_parameters", None)
            if reset is None:
                raise TypeError(f"{type(module).__name__} ({prefix}) owns parameters and has no reset_parameters()")
            streams = {name: f"init:{prefix}.{name}".replace(":.", ":") for name in own}
            with _Keyed(own, streams, f"init:{prefix}:aside", seed_of) as first:
                reset()
            if not first.aside:
                continue
            fresh = {}
            for name, parameter in own.items():
                with _Keyed(own, streams, f"init:{prefix}:aside", seed_of, name, first.begins.get(name)):
                    reset()
                fresh[name] = parameter.detach().clone()
            for name, parameter in own.items():
                parameter.copy_(fresh[name])


class _Keyed(TorchDispatchMode):
    """Puts the global generator at the right stream before every random operation.

    Args:
        own: the parameters.
        streams: parameter name -> its purpose.
        rest: purpose of what is drawn aside for no parameter in question.
        asked: the parameter whose draws aside are keyed by its name.
        begins: which of the draws aside is the first for `asked`.
    """

    def __init__(self, own: dict[str, nn.Parameter], streams: dict[str, str], rest: str, seed_of: SeedOf,
                 asked: str | None = None, begins: int | None = None) -> None:  # fmt: skip
        super().__init__()
        # By storage: a module may fill a parameter piece by piece, through views.
        self.names = {parameter.untyped_storage()._cdata: name for name, parameter in own.items()}
        self.streams, self.rest, self.seed_of = streams, rest, seed_of
        self.asked, self.first = asked, begins
        self.aside = 0
        self.begins: dict[str, int] = {}
        self._since: int | None = None
        self._mine = False
        self._drawn: dict[str, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled, and to be skipped by torch's compiler it would have to be imported

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        written = next((n for t in _written(func, args, kwargs) if (n := self._name(t)) is not None), None)
        if torch.Tag.nondeterministic_seeded in func.tags:
            if written is None:
                self._draw_aside()
            else:
                self._seed(self.streams[written])
        if written is not None:
            if self._since is not None:
                self.begins.setdefault(written, self._since)
            self._since, self._mine = None, written == self.asked
        return func(*args, **kwargs)

    def _draw_aside(self) -> None:
        """Whose numbers these are shows only when they are copied; so the first pass notes where they began."""
        self._since = self.aside if self._since is None else self._since
        self._mine = self._mine or (self.asked is not None and self.aside == self.first)
        self._seed(self.streams[self.asked] if self._mine and self.asked is not None else self.rest)
        self.aside += 1

    def _seed(self, purpose: str) -> None:
        count = self._drawn.get(purpose, 0)
        torch.manual_seed(self.seed_of(purpose, *([count] if count else [])))
        self._drawn[purpose] = count + 1

    def _name(self, tensor: Tensor) -> str | None:
        return self.names.get(tensor.untyped_storage()._cdata)


def _written(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """The tensors that an operation of torch writes into."""
    for argument, given in zip(func._schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write and isinstance(given, Tensor):
            yield given
    out = kwargs.get("out")
    if isinstance(out, Tensor):
        yield out
