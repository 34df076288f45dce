"""Attention with a gate against the same attention without one.

    python -m benchmarks.gates

One forward and backward pass of `softmax` attention over one set, without padding. The sides take turns. The bar is
that of `gated_headwise`; the other gates are shown beside it.

B batch, N tokens, D width.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from benchmarks.common import interleaved
from core.kinds import Gate
from plugins.attention.pairwise import Pairwise
from plugins.gates.dual import Dual
from plugins.gates.elementwise import Elementwise
from plugins.gates.headwise import Headwise
from plugins.gates.none import NoGate
from plugins.gates.sigmoid import Sigmoid
from plugins.gates.tempered import Tempered
from plugins.kernels.auto import Auto
from plugins.masks.full import Full
from plugins.positions.none import NoPosition
from plugins.sparsifiers.softmax import Softmax

BAR = 1.05
"""how much longer than no gate `headwise` may take"""
GATES: dict[str, Gate] = {
    "none": NoGate(),
    "headwise": Headwise(),
    "sigmoid (token)": Sigmoid(),
    "elementwise": Elementwise(),
    "tempered": Tempered(),
    "tempered (head)": Tempered(per="head"),
    "dual (tempered)": Dual(inner=Tempered(per="head")),
    "headwise, projected": Headwise(spectral="projection"),
}


def passes(gate: Gate, tokens: int, width: int, heads: int) -> Callable[[], None]:
    """One forward and backward pass over a set of tokens."""
    torch.manual_seed(0)
    plugin = Pairwise(
        heads=heads, mask=Full(), sparsifier=Softmax(), gate=gate, kernel=Auto(), position=NoPosition(), anchor=None
    )
    layer = plugin.build(width)
    x_BND = torch.randn(1, tokens, width, requires_grad=True)

    def run() -> None:
        layer.zero_grad()
        x_BND.grad = None
        layer(x_BND).square().mean().backward()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description="attention with a gate against attention without")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--gates", nargs="+", choices=GATES, default=[*GATES])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for tokens in options.tokens:
        names = dict.fromkeys(["none", *options.gates])
        took = interleaved(
            {name: passes(GATES[name], tokens, options.width, options.heads) for name in names}, options.repeats
        )
        print(f"{tokens} tokens, width {options.width}, {options.heads} heads, median CPU of {options.repeats}")
        for name, seconds in took.items():
            ratio = seconds / took["none"]
            bar = f"  (bar {BAR}: {'reached' if ratio <= BAR else 'MISSED'})" if name == "headwise" else ""
            print(f"  {name:20} {1000 * seconds:8.1f} ms  {ratio:.3f}{bar}", flush=True)


if __name__ == "__main__":
    main()
