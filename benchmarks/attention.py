"""Gated attention with its chosen kernel against the same layer with an explicit weight matrix.

    python -m benchmarks.attention

One forward and backward pass of `gated_headwise`, one set. `explicit` is the reference kernel, `textbook` three lines
without any mask, the leanest explicit matrix there is. Memory is the growth of the peak of a fresh process (Linux).

B batch, H heads, Q query and S source tokens, N cells, K key width, V value width.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.common import interleaved, ratio_line
from core.kinds import Kernel, Mask, Request
from plugins.attention.pairwise import Pairwise
from plugins.gates.headwise import Headwise
from plugins.kernels.auto import Auto
from plugins.kernels.reference import Reference
from plugins.masks.full import Full
from plugins.positions.none import NoPosition
from plugins.sparsifiers.softmax import Softmax

BAR = 3.0
"""how many times faster than `explicit` the chosen kernel should be"""
LINEAR = 1.25
"""how much the KiB a cell may differ between the smallest and the largest set"""


class Textbook(Kernel):
    """softmax(q k^T / sqrt(K)) v."""

    priority = 1000

    def refuses(self, request: Request) -> str | None:
        return "no mask and no padding here" if request.padded or request.form != "full" else None

    def attend(
        self,
        q_BHQK: Tensor,
        k_BHSK: Tensor,
        v_BHSV: Tensor,
        mask: Mask,
        sparsifier: nn.Module,
        *,
        real_BS: Tensor | None = None,
        bias: Tensor | None = None,
    ) -> Tensor:
        return torch.softmax(q_BHQK @ k_BHSK.transpose(-1, -2) / math.sqrt(q_BHQK.shape[-1]), dim=-1) @ v_BHSV


KERNELS: dict[str, type[Kernel]] = {"chosen": Auto, "explicit": Reference, "textbook": Textbook}


def passes(kernel: str, cells: int, padded: bool, width: int, heads: int) -> Callable[[], None]:
    """One forward and backward pass over a set of `cells`, an eighth of them padding where `padded`."""
    torch.manual_seed(0)
    plugin = Pairwise(
        heads=heads,
        mask=Full(),
        sparsifier=Softmax(),
        gate=Headwise(),
        kernel=KERNELS[kernel](),
        position=NoPosition(),
        anchor=None,
    )
    layer = plugin.build(width)
    x_BND = torch.randn(1, cells, width, requires_grad=True)
    real_BN = (torch.arange(cells) < cells - cells // 8)[None] if padded else None

    def run() -> None:
        layer.zero_grad()
        x_BND.grad = None
        layer(x_BND, real_BS=real_BN).square().mean().backward()

    return run


def peak(kernel: str, cells: int, padded: bool, width: int, heads: int) -> float:
    """MiB that a pass adds to the peak of this process, after a small pass has loaded what there is to load."""
    passes(kernel, 64, padded, width, heads)()
    run = passes(kernel, cells, padded, width, heads)
    before = high_water()
    run()
    return high_water() - before


def high_water() -> float:
    """The most MiB this process ever held. Not `ru_maxrss`: on Linux a child starts with its parent's."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def peak_of_fresh_process(kernel: str, cells: int, padded: bool, options: argparse.Namespace) -> float:
    """`peak` in a process of its own; NaN where that is killed, as for want of memory."""
    argv = [sys.executable, "-m", "benchmarks.attention", "--peak", kernel, str(cells), str(int(padded))]
    argv += ["--width", str(options.width), "--heads", str(options.heads), "--threads", str(options.threads)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode > 0:
        raise RuntimeError(f"{' '.join(argv)} failed:\n{done.stderr}")
    return float(done.stdout) if done.returncode == 0 else math.nan


def report(options: argparse.Namespace) -> None:
    """Print both tables and how they stand against the bar."""
    lines = []
    print(f"seconds of CPU, median of {options.repeats}, width {options.width}, {options.heads} heads")
    print(f"{'cells':>6} {'padding':>8} {'chosen':>9} {'explicit':>9} {'textbook':>9}")
    for cells in options.cells:
        for padded in (False, True):
            names = ("chosen", "explicit") if padded else tuple(KERNELS)
            took = interleaved(
                {name: passes(name, cells, padded, options.width, options.heads) for name in names}, options.repeats
            )
            row = "".join(f" {took[name]:9.4f}" if name in took else f" {'-':>9}" for name in KERNELS)
            print(f"{cells:6} {'1/8' if padded else 'none':>8}{row}", flush=True)
            where = f"{cells} cells{', padded' if padded else ''}, against "
            lines.append(ratio_line(f"{where}explicit", took["chosen"], took["explicit"], BAR))
            if not padded:
                lines.append(ratio_line(f"{where}textbook", took["chosen"], took["textbook"]))
    print("\npeak memory of one pass in MiB")
    print(f"{'cells':>6} {'padding':>8} {'chosen':>9} {'explicit':>9}")
    grown: dict[bool, list[float]] = {False: [], True: []}
    for cells in options.memory_cells:
        for padded in (False, True):
            ours, theirs = (peak_of_fresh_process(name, cells, padded, options) for name in ("chosen", "explicit"))
            grown[padded].append(ours)
            print(f"{cells:6} {'1/8' if padded else 'none':>8} {ours:9.1f} {theirs:9.1f}", flush=True)
    print()
    print("\n".join(lines))
    for padded, peaks in grown.items():
        per_cell = [1024 * mib / cells for mib, cells in zip(peaks, options.memory_cells, strict=True)]
        verdict = "reached" if per_cell[-1] < LINEAR * per_cell[0] else "MISSED"
        said = ", ".join(f"{kib:.1f}" for kib in per_cell)
        print(f"memory{', padded' if padded else ''}: {said} KiB a cell (bar: linear: {verdict})")


def main() -> None:
    parser = argparse.ArgumentParser(description="gated attention against an explicit weight matrix")
    parser.add_argument("--cells", type=int, nargs="+", default=[1024, 4096], help="set sizes that are timed")
    parser.add_argument("--memory-cells", type=int, nargs="+", default=[1024, 2048, 4096, 8192])
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--peak", nargs=3, metavar=("KERNEL", "CELLS", "PADDED"), help="print one peak and end")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak:
        kernel, cells, padded = options.peak
        print(peak(kernel, int(cells), padded == "1", options.width, options.heads))
    else:
        report(options)


if __name__ == "__main__":
    main()
