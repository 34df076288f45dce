"""A mixture of experts against dense networks of its total and of its activated size.

    python -m benchmarks.ffn

One forward and backward pass of `moe4x2` on one set, gradients of tokens and parameters included. All experts
together are as wide as the dense network of the total size; the two experts of a token are as wide as the one of the
activated size. `--parts` says where the mixture's time goes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from core.kinds import FFN
from plugins.ffn._grouped import fetch, serve, serve_and_combine
from plugins.ffn._router import timetable
from plugins.ffn.dense import Dense
from plugins.ffn.moe import Moe

BARS = {"total": (0.70, 0.58), "activated": (1.25, None)}
"""the most that the mixture's time may be over that of each dense network, and the goal"""


def passes(ffn: FFN, tokens: int, width: int) -> Callable[[], None]:
    """One forward and backward pass, of the same tokens every time."""
    torch.manual_seed(0)
    layer = ffn.build(width)
    x_BTD = torch.randn(1, tokens, width, requires_grad=True)
    weights_BTD = torch.randn(1, tokens, width)

    def run() -> None:
        x_BTD.grad = None
        layer.zero_grad(set_to_none=True)
        out_BTD, aux = layer(x_BTD)
        torch.autograd.backward([out_BTD, *aux.losses.values()], [weights_BTD, *[None] * len(aux.losses)])

    return run


def ratios(ours: Callable[[], None], theirs: Callable[[], None], pairs: int) -> list[float]:
    """Our CPU time over theirs, for each of many pairs that take turns in going first."""
    found = []
    for turn in range(pairs + 2):
        took = {}
        for side in (ours, theirs) if turn % 2 else (theirs, ours):
            begin = time.process_time()
            side()
            took[side] = time.process_time() - begin
        found.append(took[ours] / took[theirs])
    return sorted(found[2:])


def parts(moe: Moe, tokens: int, width: int, repeats: int) -> dict[str, float]:
    """Median milliseconds of each part of a forward and backward pass, by itself."""
    torch.manual_seed(0)
    layer = moe.build(width)
    x_ND, out_ND = torch.randn(tokens, width), torch.randn(tokens, width)
    choice = layer.router(x_ND)
    plan = timetable(choice, moe.experts, None)
    places = (plan.source_R, plan.target_NK)
    rows_RD, inner_RF = torch.randn(tokens * moe.top_k, width), torch.randn(tokens * moe.top_k, moe.inner(width))
    experts = layer.experts

    def both(function: Callable[..., Tensor], *inputs: Tensor, out: Tensor) -> Callable[[], object]:
        leaves = [x.detach().requires_grad_() for x in inputs]
        return lambda: torch.autograd.grad(function(*leaves), leaves, out)

    weights = choice.weight_NK.detach()
    timed: dict[str, Callable[[], object]] = {
        "router": lambda: layer._aux(layer.router(x_ND), plan).losses["balance"].backward(),
        "timetable": lambda: timetable(choice, moe.experts, None),
        "fetch": both(lambda x: fetch(x, *places), x_ND, out=rows_RD),
        "first map": both(
            lambda x, w, b: serve(x, w, b, plan.spans), rows_RD, experts.up_EDF, experts.up_bias_EF, out=inner_RF
        ),
        "activation": both(experts.activation, inner_RF, out=inner_RF),
        "second map": both(
            lambda x, m, b, w: serve_and_combine(x, m, b, w, *places, plan.spans),
            inner_RF,
            experts.down_EFD,
            experts.down_bias_ED,
            weights,
            out=out_ND,
        ),
    }
    took: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(repeats):
        for name, run in timed.items():
            begin = time.process_time()
            run()
            took[name].append(1e3 * (time.process_time() - begin))
    return {name: statistics.median(times) for name, times in took.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--inner", type=int, default=1024, help="inner width of all experts together")
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--top-k", type=int, default=2)
    parser.add_argument("--pairs", type=int, default=31)
    parser.add_argument("--parts", action="store_true", help="where the mixture's time goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ratio = options.inner / options.width
    moe = Moe(experts=options.experts, top_k=options.top_k, ratio=ratio)
    dense = {"total": Dense(ratio=ratio), "activated": Dense(ratio=ratio * options.top_k / options.experts)}
    ours = passes(moe, options.tokens, options.width)
    print(f"{options.tokens} tokens, width {options.width}, inner {options.inner}, {options.pairs} pairs, CPU time")
    for size, plugin in dense.items():
        found = ratios(ours, passes(plugin, options.tokens, options.width), options.pairs)
        middle, (bar, goal) = statistics.median(found), BARS[size]
        low, high = found[len(found) // 4], found[3 * len(found) // 4]
        flops = moe.flops(options.width, options.tokens) / plugin.flops(options.width, options.tokens)
        aim = f"bar {bar}: {'reached' if middle <= bar else 'MISSED'}"
        aim += "" if goal is None else f", goal {goal}: {'reached' if middle <= goal else 'missed'}"
        print(
            f"moe{options.experts}x{options.top_k} over dense of the {size} size: time {middle:.3f} "
            f"(quartiles {low:.3f} {high:.3f}), FLOPs {flops:.3f} ({aim})"
        )
    if options.parts:
        for name, took in parts(moe, options.tokens, options.width, options.pairs).items():
            print(f"  {name:12} {took:7.2f} ms")


if __name__ == "__main__":
    main()
