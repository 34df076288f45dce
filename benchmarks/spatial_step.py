"""A training step of the spatial network against the same layers stated plainly, with an explicit attention matrix.

    python -m benchmarks.spatial_step

One set of cells, 500 genes, forward, loss and backward, one thread, CPU time, both sides taking turns. Ours is the
backbone `alphastomics` with `gated_headwise`; `plain` reads the very same parameters and says each step in one line of
PyTorch, without padding, as one would write it down. The floor of a case is its matrix products over the rate that the
machine reached on large ones between the turns. Memory is the peak of a fresh process (Linux). Where cost should be
linear in cells, each size has a process of its own, a step to warm up, and what the system takes to provide new memory
told apart: it differs from machine to machine. glibc gives tensors of more than 32 MB back at once and asks for each
anew; `kept` is a process that keeps them, as the command `core` does.

N cells, G genes, P axes of space, D width, H heads, K head width.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.attention import high_water
from benchmarks.common import MEMORY, apart, median_seconds, ratio_line
from core.config import resolve_part
from core.kinds import Card, Parts
from core.train.streams import Streams

GENES, AXES, WIDTH, HEADS, DEPTH, DROPOUT = 500, 3, 256, 8, 6, 0.1
BARS = {512: 1.2, 2048: 2.0, 4096: 2.5}
"""how many times faster than `plain`"""
NEAR, NEAR_BAR = 64, 6.0
"""neighbours a cell, and the bar at 4096 cells"""
PEAK = 3.0
"""GB of the process at 4096 cells"""
LINEAR = 1.25
"""how much the time of a cell may differ between the smallest and the largest set"""
SIDES = {
    "ours": ("gated_headwise", "dense"),
    "near": (f"gated_headwise(mask=neighbours(k={NEAR}))", "dense"),
    "moe": ("gated_headwise", "moe4x2"),
}


def network(side: str, recompute: bool = False) -> nn.Module:
    """The network of a side, the same first values for all that they share."""
    attention, ffn = SIDES["ours" if side == "plain" else side]
    parts = Parts(
        width=WIDTH,
        depth=DEPTH,
        dropout=DROPOUT,
        encoder=resolve_part("encoder", "expression", {}),
        attention=resolve_part("attention", attention, {"heads": HEADS}),
        ffn=resolve_part("ffn", ffn, {"dropout": DROPOUT}),
        residual=resolve_part("residual", "plain", {}),
        outputs={"expression": GENES, "position": AXES},
        recompute=recompute,
    )
    card = Card(name="", sizes={"genes": GENES, "dims": AXES}, splits={}, fingerprint="")
    return resolve_part("backbone", "alphastomics", {}).build(card, parts)


def plain(net: nn.Module, expression_NG: Tensor, place_NP: Tensor, time_M: Tensor) -> tuple[Tensor, Tensor]:
    """What the network gives for one set at noise levels `time_M`, with the network's own parameters."""
    drop = DROPOUT if net.training else 0.0
    cells = len(place_NP)

    def centred(p_NP: Tensor) -> Tensor:
        return p_NP - p_NP.mean(0)

    def far(p_NP: Tensor) -> Tensor:
        return p_NP.norm(dim=-1, keepdim=True)

    x_ND = net.encoder.layers(expression_NG)
    y_T = net.time(time_M)
    p_NP = centred(place_NP)
    p_NP = centred(p_NP * net.radial.layers(far(p_NP)) / (far(p_NP) + 1e-6))
    for layer in net.layers:
        told_T = layer.time(y_T)
        direction = torch.cat([p_NP / (far(p_NP) + 1e-7), far(p_NP)], -1)
        h_ND = layer.mixed(torch.cat([layer.cells(x_ND), told_T.expand(cells, -1), layer.places.layers(direction)], -1))
        at = layer.attention
        q_HNK, k_HNK, v_HNK = (m(h_ND).view(cells, HEADS, -1).transpose(0, 1) for m in (at.query, at.key, at.value))
        q_HNK, k_HNK = (
            F.rms_norm(q_HNK, q_HNK.shape[-1:], at.query_norm.weight, 1e-6),
            F.rms_norm(k_HNK, k_HNK.shape[-1:], at.key_norm.weight, 1e-6),
        )
        weights_HNN = F.dropout(torch.softmax(q_HNK @ k_HNK.mT / math.sqrt(q_HNK.shape[-1]), -1), drop)
        out_NHK = (weights_HNN @ v_HNK).transpose(0, 1) * at.gate.scores(h_ND[None])[0, ..., None]
        a_ND = at.output(out_NHK.flatten(1))
        moved_NP = layer.to_places(a_ND)
        p_NP = centred(layer.norm_places.weight * moved_NP / (far(moved_NP).mean() + 1e-6))
        x_ND = layer.norm_attention(x_ND + F.dropout(layer.to_cells(a_ND), drop))
        inner = F.dropout(F.gelu(layer.ffn.up(x_ND)), drop)
        x_ND = layer.norm_ffn(x_ND + F.dropout(layer.ffn.down(inner), drop))
        if layer.step is not None:
            step = layer.step
            y_T = step.norm_told(y_T + F.dropout(told_T, drop))
            y_T = step.norm_ffn(y_T + F.dropout(step.down(F.dropout(F.gelu(step.up(y_T)), drop)), drop))
    head = net.heads["position"]
    scale = head.scale(torch.cat([head.features(x_ND), p_NP, far(p_NP)], -1))
    return net.heads["expression"](x_ND), centred(p_NP * scale / (far(p_NP) + 1e-6))


def step(side: str, cells: int, *, recompute: bool = False, mse: bool = False) -> Callable[[], Tensor]:
    """One forward pass, loss and backward pass of a side.

    Args:
        side: of `SIDES`, or `plain`.
        cells: in the set.
        recompute: keep only what enters a layer.
        mse: places by coordinates: the loss of all distances grows with the square of the cells by itself.
    """
    net = network(side, recompute)
    Streams(0).initialise(net)
    net.train()
    generator = torch.Generator().manual_seed(1)
    data = {
        "expression": torch.randn(1, cells, GENES, generator=generator),
        "position": torch.rand(1, cells, AXES, generator=generator) * math.sqrt(12.0),
    }
    noisy = {m: 0.7 * x + 0.7 * torch.randn(x.shape, generator=generator) for m, x in data.items()}
    times = {m: torch.full((1,), 0.5) for m in data}
    real_BN = torch.ones(1, cells, dtype=torch.bool)
    of_expression = resolve_part("loss", "mse", {})
    of_position = of_expression if mse else resolve_part("loss", "distance_mse", {})

    def run() -> Tensor:
        net.zero_grad(set_to_none=True)
        if side == "plain":
            x_NG, p_NP = plain(net, noisy["expression"][0], noisy["position"][0], torch.full((2,), 0.5))
            wrong_NN = torch.cdist(p_NP, p_NP) - torch.cdist(data["position"][0], data["position"][0])
            loss = (x_NG - data["expression"][0]).square().mean() + wrong_NN.square().mean()
        else:
            out, aux = net(noisy, times, real_BN)
            told = of_expression(out["expression"], data["expression"], real_BN)
            places = of_position(out["position"], data["position"], real_BN)
            loss = sum([*told.values(), *places.values(), *aux.losses.values()])
        loss.backward()
        return loss.detach()

    return run


def agreement() -> float:
    """The largest difference between both statements, without dropout."""
    net = network("ours").eval()
    Streams(0).initialise(net)
    generator = torch.Generator().manual_seed(2)
    fields = {"expression": torch.randn(1, 64, GENES, generator=generator), "position": torch.randn(1, 64, AXES)}
    times = {m: torch.full((1,), 0.3) for m in fields}
    with torch.no_grad():
        ours, _ = net(fields, times, torch.ones(1, 64, dtype=torch.bool))
        theirs = plain(net, fields["expression"][0], fields["position"][0], torch.full((2,), 0.7))
    return max(float((a[0] - b).abs().max()) for a, b in zip(ours.values(), theirs, strict=True))


def products(side: str, cells: int) -> float:
    """FLOPs of the matrix products of a step: three times those of a forward pass."""
    with torch.device("meta"):
        net = network(side)
        fields = {"expression": torch.empty(1, cells, GENES), "position": torch.empty(1, cells, AXES)}
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(fields, {m: torch.empty(1) for m in fields}, torch.empty(1, cells, dtype=torch.bool))
    return 3.0 * counter.get_total_flops()


def rate(size: int = 1024) -> float:
    """FLOPs a second of one large matrix product."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    begin = time.process_time()
    a @ b
    return 2.0 * size**3 / (time.process_time() - begin)


def turns(sides: dict[str, Callable[[], object]], repeats: int) -> tuple[dict[str, float], float]:
    """Median CPU seconds of each side, taking turns, and the median rate of matrix products between them."""
    took: dict[str, list[float]] = {name: [] for name in sides}
    rates = []
    for turn in range(repeats + 1):
        for name, run in sides.items():
            begin = time.process_time()
            run()
            if turn:
                took[name].append(time.process_time() - begin)
            rates.append(rate())
    return {name: statistics.median(times) for name, times in took.items()}, statistics.median(rates)


def peak(side: str, cells: int) -> float:
    """GB at the peak of a fresh process that makes one step."""
    argv = [sys.executable, "-m", "benchmarks.spatial_step", "--peak", side, str(cells)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode > 0:
        raise RuntimeError(f"{' '.join(argv)} failed:\n{done.stderr}")
    return float(done.stdout) if done.returncode == 0 else math.nan


def linear(cells: int, memory: str) -> tuple[float, float]:
    """us of CPU time a cell in a fresh process: computing, and the system's."""
    found = apart("benchmarks.spatial_step", "--one", str(cells), memory=memory)
    return 1e6 * found[0] / cells, 1e6 * found[1] / cells


def report(options: argparse.Namespace) -> None:
    """Print each case beside its floor, and how it stands against its bar."""
    load = os.getloadavg()[0]
    print(f"{DEPTH} layers, width {WIDTH}, {HEADS} heads, {GENES} genes; load {load:.1f} on {os.cpu_count()} cores")
    print(f"largest difference of both statements without dropout: {agreement():.1e}")
    print(f"{'cells':>6} {'side':>6} {'seconds':>9} {'floor':>8} {'GFLOP/s':>8}")
    lines = []
    for cells in options.cells:
        names = ["plain", "ours"] + (["near", "moe"] if cells >= 4096 else [])
        took, reached = turns({n: step(n, cells) for n in names}, max(1, options.repeats * 512 // cells))
        for name in names:
            floor = products("ours" if name == "plain" else name, cells) / reached
            print(f"{cells:6} {name:>6} {took[name]:9.3f} {floor:8.3f} {reached / 1e9:8.1f}", flush=True)
        lines.append(ratio_line(f"{cells} cells", took["ours"], took["plain"], BARS.get(cells)))
        if "near" in took:
            lines.append(ratio_line(f"{cells} cells, neighbours({NEAR})", took["near"], took["plain"], NEAR_BAR))
            lines.append(ratio_line(f"{cells} cells, moe4x2 against dense", took["moe"], took["ours"], 1.0))
    if options.memory:
        most = {side: peak(side, 4096) for side in ("ours", "near", "plain")}
        print(", ".join(f"{side} {gb:.2f} GB" for side, gb in most.items()) + " at the peak, 4096 cells")
        lines.append(f"memory: {most['ours']:.2f} GB (bar {PEAK:g}: {'reached' if most['ours'] < PEAK else 'MISSED'})")
    for memory in MEMORY if options.linear else ():
        each = [linear(cells, memory) for cells in options.linear]
        for cells, (computing, system) in zip(options.linear, each, strict=True):
            print(
                f"{cells:6} cells, neighbours({NEAR}), layers recomputed, memory {memory}: {computing + system:.0f} us "
                f"a cell, of which {system:.0f} of the system for memory",
                flush=True,
            )
        growth, of_computing = sum(each[-1]) / sum(each[0]), each[-1][0] / each[0][0]
        verdict = "reached" if growth <= LINEAR else "MISSED"
        lines.append(
            f"linear in cells, memory {memory}: {growth:.2f} times the time a cell (bar {LINEAR}: {verdict}), "
            f"{of_computing:.2f} times the computing"
        )
    print("\n".join(lines))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cells", type=int, nargs="*", default=[512, 1024, 2048, 4096])
    parser.add_argument("--linear", type=int, nargs="*", default=[4096, 16384, 50000], help="set sizes of neighbours")
    parser.add_argument("--repeats", type=int, default=16, help="turns at 512 cells; fewer for more cells")
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--peak", nargs=2, metavar=("SIDE", "CELLS"), help="print one peak in GB and end")
    parser.add_argument("--one", type=int, metavar="CELLS", help="print seconds of a step under neighbours and end")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        print(*median_seconds(step("near", options.one, recompute=True, mse=True), 1 + 2 * (20000 // options.one)))
    elif options.peak:
        step(options.peak[0], int(options.peak[1]))()
        print(high_water() * 2**20 / 1e9)
    else:
        report(options)


if __name__ == "__main__":
    main()
