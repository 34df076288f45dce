"""One process, one device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from core.errors import UserError
from core.kinds import Strategy
from core.params import params


@params
class Single(Strategy):
    """One process on the CPU or on one GPU."""

    def device(self, wanted: str) -> torch.device:
        if wanted == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: torch sees no GPU here; use --device cpu, or install a CUDA build of torch")
        return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")

    def wrap(self, model: nn.Module) -> nn.Module:
        return model

    def backward(self, called: nn.Module, loss: Tensor) -> None:
        loss.backward()

    def main(self) -> bool:
        return True
