"""Windowed attention in blocks against fused attention with a dense mask.

    python -m benchmarks.local

One forward and backward pass of the sum itself (queries, keys and values are given) under `window_anchor`, one set.
`dense` is PyTorch's scaled dot product attention with the same mask as a tensor, made beforehand. Memory is the growth
of the peak of a fresh process (Linux).
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.attention import high_water
from benchmarks.common import interleaved, ratio_line
from core.kinds import Layout
from plugins.kernels.block_local import BlockLocal
from plugins.masks.window_anchor import WindowAnchor
from plugins.sparsifiers.softmax import Softmax

BAR = 5.0
"""how many times faster than `dense` the blocks should be"""
FLAT = 1.15
"""how much the cost of a token may differ between the shortest and the longest sequence"""
LINEAR = 1.25
"""how much the KiB a token may differ between them"""


def passes(side: str, tokens: int, options: argparse.Namespace) -> Callable[[], None]:
    """One forward and backward pass over a sequence of `tokens` behind its anchors."""
    generator, sources = torch.Generator().manual_seed(0), tokens + options.anchors
    plugin = WindowAnchor(window=options.window, anchors=options.anchors)
    mask = plugin.on(Layout(queries=tokens, sources=sources, anchors=options.anchors))
    weigh, head = Softmax().build(options.heads), options.width // options.heads
    rows = torch.arange(tokens if side == "dense" else 0)[:, None].split(64)  # so that making it is not the peak
    shown_QS = torch.cat([mask.sees(some_q1, torch.arange(sources)) for some_q1 in rows])
    inputs = [
        torch.randn(1, options.heads, n, head, generator=generator, requires_grad=True)
        for n in (tokens, sources, sources)
    ]

    def run() -> None:
        if side == "dense":
            out = F.scaled_dot_product_attention(*inputs, attn_mask=shown_QS)
        else:
            out = BlockLocal().attend(*inputs, mask, weigh)
        torch.autograd.grad(out, inputs, torch.ones_like(out))

    return run


def peak(side: str, tokens: int, options: argparse.Namespace) -> float:
    """MiB that a pass adds to the peak of this process, after a small pass has loaded what there is to load."""
    passes(side, 64, options)()
    run = passes(side, tokens, options)
    before = high_water()
    run()
    return high_water() - before


def peak_of_fresh_process(side: str, tokens: int, options: argparse.Namespace) -> float:
    """`peak` in a process of its own; NaN where that is killed, as for want of memory."""
    argv = [sys.executable, "-m", "benchmarks.local", "--peak", side, str(tokens), "--threads", str(options.threads)]
    argv += ["--width", str(options.width), "--heads", str(options.heads)]
    argv += ["--window", str(options.window), "--anchors", str(options.anchors)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode > 0:
        raise RuntimeError(f"{' '.join(argv)} failed:\n{done.stderr}")
    return float(done.stdout) if done.returncode == 0 else math.nan


def report(options: argparse.Namespace) -> None:
    """Print what a token costs at each length, and how that stands against the bars."""
    sides = {f"{tokens} in blocks": passes("blocks", tokens, options) for tokens in options.tokens}
    took = interleaved(sides, options.repeats)
    versus = interleaved(
        {side: passes(side, options.against, options) for side in ("blocks", "dense")}, options.repeats
    )
    print(f"window_anchor({options.window}, {options.anchors}), width {options.width}, {options.heads} heads")
    print(f"{'tokens':>7} {'us a token':>11} {'MiB':>8}")
    costs = [1e6 * took[f"{tokens} in blocks"] / tokens for tokens in options.tokens]
    peaks = [peak_of_fresh_process("blocks", tokens, options) for tokens in options.tokens]
    for tokens, cost, mib in zip(options.tokens, costs, peaks, strict=True):
        print(f"{tokens:7} {cost:11.1f} {mib:8.1f}")
    dense = peak_of_fresh_process("dense", options.against, options)
    print(
        f"dense at {options.against} tokens: {1e6 * versus['dense'] / options.against:.1f} us a token, {dense:.1f} MiB"
    )
    print(ratio_line(f"{options.against} tokens, against dense", versus["blocks"], versus["dense"], BAR))
    spread, kib = costs[-1] / costs[0], [1024 * mib / n for mib, n in zip(peaks, options.tokens, strict=True)]
    verdict = "reached" if spread <= FLAT else "MISSED"
    print(f"cost of a token, longest over shortest: {spread:.2f} (bar {FLAT:g}: {verdict})")
    verdict = "reached" if kib[-1] <= LINEAR * kib[0] else "MISSED"
    print(f"memory: {', '.join(f'{k:.1f}' for k in kib)} KiB a token (bar: linear: {verdict})")


def main() -> None:
    parser = argparse.ArgumentParser(description="windowed attention in blocks against a dense mask")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 16384])
    parser.add_argument("--against", type=int, default=4096, help="tokens at which both sides are timed")
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--anchors", type=int, default=4)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", nargs=2, metavar=("SIDE", "TOKENS"), help="print one peak and end")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        print(peak(options.peak[0], int(options.peak[1]), options))
    else:
        report(options)


if __name__ == "__main__":
    main()
