"""Sparse weights against the `entmax` package and against softmax.

    python -m benchmarks.sparsifiers

One forward and backward pass over logits (8, 8, 256, 256) in float32, drawn from N(0, 1) and N(0, 4), in CPU time of
one thread. All sides of a table take turns in one process. `--compiled` adds the plain operations under torch.compile,
which takes a C++ compiler and a minute. With a mask, softmax is the sparsifier of that name, not the bare function.

B batch, H heads, Q query and S source tokens.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import entmax as package
import torch
from torch import Tensor

from benchmarks.common import interleaved, ratio_line
from plugins.sparsifiers.mapping import entmax
from plugins.sparsifiers.softmax import SoftmaxWeights

BARS = {"entmax15": 6.0, "sparsemax": 5.0}
"""how many times faster than the package"""
GOAL = 3.0
"""how many times the cost of torch.softmax"""
ALPHAS = {"entmax15": 1.5, "sparsemax": 2.0}
THEIRS = {"entmax15": package.entmax15, "sparsemax": package.sparsemax}


def passes(weigh: Callable[[Tensor], Tensor], logits_BHQS: Tensor, grad_BHQS: Tensor) -> Callable[[], None]:
    """One forward and backward pass."""

    def run() -> None:
        logits_BHQS.grad = None
        weigh(logits_BHQS).backward(grad_BHQS)

    return run


def report(options: argparse.Namespace) -> None:
    """Print a table for each spread of the logits, and how it stands against the bars."""
    everything = torch.tensor(True)
    causal_QS = torch.ones(options.shape[-2:], dtype=torch.bool).tril()
    masked_softmax = SoftmaxWeights()
    for deviation in (1.0, 2.0):
        generator = torch.Generator().manual_seed(0)
        logits_BHQS = (deviation * torch.randn(options.shape, generator=generator)).requires_grad_()
        grad_BHQS = torch.randn(options.shape, generator=generator)
        sides: dict[str, Callable[[Tensor], Tensor]] = {"softmax": lambda x: x.softmax(-1)}
        for name, alpha in ALPHAS.items():
            sides[name] = lambda x, a=alpha: entmax(x, everything, a)  # type: ignore[misc]
            sides[f"{name} of the package"] = lambda x, f=THEIRS[name]: f(x, dim=-1)  # type: ignore[misc]
            if options.compiled:
                sides[f"{name} compiled"] = torch.compile(sides[name], fullgraph=True)
        sides["softmax, causal"] = lambda x: masked_softmax(x, causal_QS)
        for name, alpha in ALPHAS.items():
            sides[f"{name}, causal"] = lambda x, a=alpha: entmax(x, causal_QS, a)  # type: ignore[misc]
        runs = {name: passes(weigh, logits_BHQS, grad_BHQS) for name, weigh in sides.items()}
        took = interleaved(runs, options.repeats, warm=2)
        print(f"logits N(0, {deviation**2:g}): milliseconds of CPU, median of {options.repeats}")
        for name, seconds in took.items():
            print(f"  {name:28} {1e3 * seconds:8.1f} = {seconds / took['softmax']:6.2f} x softmax")
        print(f"softmax with a mask costs {took['softmax, causal'] / took['softmax']:.2f} times softmax without")
        for name, bar in BARS.items():
            difference = float((sides[name](logits_BHQS) - THEIRS[name](logits_BHQS, dim=-1)).abs().max())
            print(ratio_line(f"{name} against the package", took[name], took[f"{name} of the package"], bar))
            reached = "reached" if took[name] <= GOAL * took["softmax"] else "MISSED"
            print(f"{name} costs {took[name] / took['softmax']:.2f} times softmax (goal {GOAL:g}: {reached})")
            print(f"{name} differs from the package by {difference:.1e} at most")
        print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="sparse weights against the entmax package and softmax")
    parser.add_argument("--shape", type=int, nargs=4, default=[8, 8, 256, 256], metavar=("B", "H", "Q", "S"))
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--compiled", action="store_true", help="also time the maps under torch.compile")
    options = parser.parse_args()
    torch.set_num_threads(1)
    report(options)


if __name__ == "__main__":
    main()
