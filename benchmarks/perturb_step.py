"""A training step and a generation of the perturbation network against scDFM's layers with explicit attention maps.

    python -m benchmarks.perturb_step

16 cells of 500 genes, width 128, 4 layers, 8 heads, one thread, CPU time, both sides taking turns. Ours is the backbone
`diff_perceiver` with `differential` attention and a vocabulary of 500 genes; `plain` says the layers of scDFM
(arXiv:2602.07103) one formula a line: gene embeddings that read the whole vocabulary under a mask, computed for every
cell, norms steered by genes for every cell, and differential attention whose two maps are formed. Both have a loss of
mean squares and no optimiser step. A generation is Runge-Kutta's fourth order over 20 points, 76 calls; one call of
each side is timed and counted so often, unless `--whole`. The floor of a case is its matrix products over the rate that
the machine reached on large ones between the turns. The loss of samples and extractors are timed by themselves. Memory
is the peak of a fresh process, above what it was with the network built (Linux).

Explicit maps are of 128 MB each, and glibc asks the system for each anew, which costs more or less from machine to
machine and depends on what the process did before. So every timing is that of a fresh process after three calls to
warm up, and comes twice: with memory given back, as in any process, and kept, as the command `core` does, where little
but computing is compared.

B cells, N genes, D width, H heads, K head width.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.attention import high_water
from benchmarks.common import MEMORY, apart, interleaved, median_seconds, ratio_line
from benchmarks.spatial_step import rate, turns
from core.config import resolve_part
from core.kinds import Card, Parts
from core.train.streams import Streams

CELLS, GENES, WIDTH, DEPTH, HEADS, DROPOUT, NEAR = 16, 500, 128, 4, 8, 0.1, 30
POINTS = 20
CALLS = 4 * (POINTS - 1)
WARM = 3
"""calls until kept memory is that of one call"""
BAR, SMALLER = 3.0, 3.0
"""how many times faster, and how many times less memory"""
PER_GENE = 1.25
"""how much the time of a gene may grow over a fourfold number of genes, with linear attention"""


def network(
    genes: int = GENES, attention: str = "differential", streams: tuple[str, ...] = ("expression",), latent: int = 64
) -> nn.Module:
    """Ours."""
    parts = Parts(
        width=WIDTH,
        depth=DEPTH,
        dropout=DROPOUT,
        attention=resolve_part("attention", attention, {"heads": HEADS}),
        ffn=resolve_part("ffn", "dense", {}),
        residual=resolve_part("residual", "plain", {}),
        outputs={s: {"expression": 1, "latent": latent}[s] for s in streams},
    )
    card = Card(name="", sizes={"genes": genes, "perturbations": 100, "together": 2}, splits={}, fingerprint="")
    given: dict[str, object] = {"control": "cross"} if attention == "linear" else {}
    given |= {"frame.neighbours": NEAR, "frame.product": False, "frame.combine": "mean"}
    made = resolve_part("backbone", "diff_perceiver", given).build(card, parts)
    made.set_neighbours(table(genes))
    made.set_perturbed_genes(torch.arange(100) % genes)
    Streams(0).initialise(made)
    return made


def table(genes: int) -> Tensor:
    """Neighbours of each gene."""
    return torch.randint(genes, (genes, NEAR), generator=torch.Generator().manual_seed(0))


def given(genes: int = GENES, latent: int = 64) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Fields and times of a batch."""
    generator = torch.Generator().manual_seed(1)
    fields = {
        "expression": torch.randn(CELLS, genes, 1, generator=generator),
        "control": torch.rand(CELLS, genes, 1, generator=generator),
        "latent": torch.randn(CELLS, genes, latent, generator=generator),
        "gene": torch.arange(genes).expand(CELLS, -1),
        "perturbation": torch.randint(1, 100, (CELLS, 2), generator=generator),
    }
    return fields, {s: torch.rand(CELLS, generator=generator) for s in ("expression", "latent")}


class PlainAttention(nn.Module):
    """softmax(Q_1 K_1^T) - lambda softmax(Q_2 K_2^T), formed; `cross` says which of the four read the second input."""

    def __init__(self, layer: int, cross: bool) -> None:
        super().__init__()
        head = WIDTH // HEADS
        self.cross, self.initial = cross, 0.8 - 0.6 * math.exp(-0.3 * layer)
        self.q1, self.k1, self.q2, self.k2, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(6))
        self.lambdas = nn.Parameter(0.1 * torch.randn(4, head))
        self.norm = nn.RMSNorm(head, eps=1e-5)

    def forward(self, n_BND: Tensor, x_BND: Tensor) -> Tensor:
        key_1, query_2 = (x_BND, n_BND) if self.cross else (n_BND, x_BND)
        q1, k1, q2, k2, v = (
            m(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for m, x in ((self.q1, n_BND), (self.k1, key_1), (self.q2, query_2), (self.k2, x_BND), (self.v, n_BND))
        )
        scale = q1.shape[-1] ** -0.5
        first = torch.softmax(q1 @ k1.mT * scale, -1, dtype=torch.float32)
        second = torch.softmax(q2 @ k2.mT * scale, -1, dtype=torch.float32)
        a, b, c, d = self.lambdas
        share = (a * b).sum().exp() - (c * d).sum().exp() + self.initial
        out = self.norm((first - share * second) @ v) * (1 - self.initial)
        return self.o(out.transpose(1, 2).flatten(2))


class PlainBlock(nn.Module):
    """y += gate Attn(modulated LN y); y += gate MLP(modulated LN y)."""

    def __init__(self, layer: int, cross: bool) -> None:
        super().__init__()
        self.steer = nn.Linear(WIDTH, 6 * WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6, elementwise_affine=False)
        self.attention = PlainAttention(layer, cross)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, y_BND: Tensor, x_BND: Tensor, c_BD: Tensor) -> Tensor:
        shift_a, scale_a, gate_a, shift_m, scale_m, gate_m = self.steer(F.silu(c_BD))[:, None].chunk(6, -1)
        y_BND = y_BND + gate_a * self.attention(self.norm(y_BND) * (1 + scale_a) + shift_a, x_BND)
        inner = F.gelu(self.up(self.norm(y_BND) * (1 + scale_m) + shift_m), approximate="tanh")
        return y_BND + gate_m * self.down(inner)


class PlainValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.norm = nn.Linear(1, WIDTH), nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, v_BN1: Tensor) -> Tensor:
        return F.dropout(self.norm(self.second(F.relu(self.first(v_BN1.clamp(max=512))))), DROPOUT, self.training)


class PlainGenes(nn.Module):
    """Embeddings that read the vocabulary under a mask, for every cell."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.norm = nn.Embedding(GENES, WIDTH), nn.LayerNorm(WIDTH)
        self.norm_1, self.norm_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = nn.MultiheadAttention(WIDTH, HEADS, DROPOUT, batch_first=True)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        hidden = torch.ones(GENES, GENES, dtype=torch.bool).scatter_(1, table(GENES), False)
        self.register_buffer("hidden", hidden.fill_diagonal_(False))

    def forward(self, gene_BN: Tensor) -> Tensor:
        def drop(x: Tensor) -> Tensor:
            return F.dropout(x, DROPOUT, self.training)

        x = self.norm(self.table(gene_BN))
        memory = self.norm(self.table.weight).expand(len(gene_BN), -1, -1)
        read, _ = self.attention(self.norm_1(x), memory, memory, attn_mask=self.hidden[gene_BN[0]], need_weights=False)
        h = x + drop(read)
        return h + drop(self.down(drop(F.gelu(self.up(self.norm_2(h))))))


class Plain(nn.Module):
    """scDFM's network (differential perceiver), from its formulas."""

    def __init__(self) -> None:
        super().__init__()
        self.genes, self.values, self.control = PlainGenes(), PlainValues(), PlainValues()
        self.time = nn.Sequential(nn.Linear(256, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.fused = nn.Sequential(nn.Linear(2 * WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.LayerNorm(WIDTH))
        self.norm = nn.LayerNorm(WIDTH)
        self.gene_steer = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(DEPTH))
        self.adapters = nn.ModuleList(
            nn.Sequential(
                nn.Linear(2 * WIDTH, WIDTH),
                nn.LeakyReLU(),
                nn.Dropout(DROPOUT),
                nn.Linear(WIDTH, WIDTH),
                nn.LeakyReLU(),
            )
            for _ in range(DEPTH)
        )
        self.itself = nn.ModuleList(PlainBlock(i, True) for i in range(DEPTH))
        self.against = nn.ModuleList(PlainBlock(i, False) for i in range(DEPTH))
        self.decoder = nn.Sequential(
            nn.Linear(2 * WIDTH, WIDTH), nn.LeakyReLU(), nn.Linear(WIDTH, WIDTH), nn.LeakyReLU(), nn.Linear(WIDTH, 1)
        )

    def forward(self, fields: dict[str, Tensor], times: dict[str, Tensor]) -> Tensor:
        g = self.genes(fields["gene"])
        p = self.genes(fields["perturbation"]).mean(1, keepdim=True).expand(-1, GENES, -1)
        phase = times["expression"][:, None] * torch.exp(torch.arange(128) * (-math.log(10000) / 128))
        c = self.time(torch.cat([phase.cos(), phase.sin()], -1))
        v2 = self.control(fields["control"]) + g
        x = self.fused(torch.cat([self.values(fields["expression"]) + g, v2], -1))
        for steer, adapter, itself, against in zip(
            self.gene_steer, self.adapters, self.itself, self.against, strict=True
        ):
            shift, gate, scale = steer(F.silu(g)).chunk(3, -1)
            x = adapter(torch.cat([x + gate * (self.norm(x) * scale + shift), p], -1))
            x = against(itself(x, x, c), v2, c)
        return self.decoder(torch.cat([x, p], -1))


def call(side: str, genes: int = GENES, attention: str = "differential") -> tuple[nn.Module, Callable[[], Tensor]]:
    """A side's network, and a forward pass of it."""
    fields, times = given(genes)
    if side == "plain":
        torch.manual_seed(0)
        plain = Plain()
        return plain, lambda: plain(fields, times)
    streams = ("expression", "latent") if side == "cascade" else ("expression",)
    ours, real_BN = network(genes, attention, streams), torch.ones(CELLS, genes, dtype=torch.bool)
    kept: dict[str, Tensor] = {}

    def forward() -> Tensor:
        outputs, _ = ours(fields, times, real_BN, kept=None if ours.training else kept)
        return torch.cat([*outputs.values()], -1)

    return ours, forward


def products(side: str) -> float:
    """FLOPs of the matrix products of a forward pass; the fused attention of CPUs is not counted, its formula is."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        call(side)[1]()
    return float(counter.get_total_flops())


def beside() -> dict[str, Callable[[], object]]:
    """What a step costs besides its network: the loss of samples, two groups of 8 cells, and latents of the cells."""
    generator = torch.Generator().manual_seed(3)
    made, true = (torch.rand(CELLS, GENES, generator=generator) for _ in range(2))
    group, columns = torch.arange(CELLS) // 8, torch.arange(GENES)
    loss = resolve_part("loss", "mmd", {})

    def mmd() -> None:
        loss(made.clone().requires_grad_(), true, group, group)["mmd"].backward()

    cells = np.random.default_rng(4).poisson(0.7, (256, GENES)).astype(np.float32)
    names = [f"gene {i}" for i in range(GENES)]
    found: dict[str, Callable[[], object]] = {"loss mmd": mmd}
    for name in ("pca", "random_projection", "scgpt_random"):
        fitted = resolve_part("extractor", name, {}).fit(np.log1p(cells), names, Streams(0))
        shown = torch.from_numpy(np.log1p(cells[:CELLS]))
        found[f"extractor {name}"] = lambda fitted=fitted, shown=shown: fitted(shown, columns)
    return found


def step(side: str, genes: int = GENES, attention: str = "differential") -> Callable[[], object]:
    """Forward pass, loss and backward pass."""
    net, forward = call(side, genes, attention)
    net.train()

    def run() -> None:
        net.zero_grad(set_to_none=True)
        (forward() - 1).square().mean().backward()

    return run


def velocity(side: str) -> Callable[[], object]:
    """One call of a generation."""
    net, forward = call(side)
    net.eval()

    def run() -> None:
        with torch.no_grad():
            forward()

    return run


def generation(side: str) -> Callable[[], object]:
    """All calls of one."""
    one = velocity(side)

    def run() -> None:
        for _ in range(CALLS):
            one()

    return run


def peak(side: str) -> float:
    """MiB at the peak of one training step in a fresh process, above what the built network takes."""
    return apart("benchmarks.perturb_step", "--peak", side, memory="given back")[0]


def report(options: argparse.Namespace) -> None:
    """Print both sides beside each other, and how the ratios stand against their bars."""
    print(f"{CELLS} cells, {GENES} genes, width {WIDTH}, {DEPTH} layers, {HEADS} heads; load {os.getloadavg()[0]:.1f}")
    sizes = {side: sum(p.numel() for p in call(side)[0].parameters()) for side in ("ours", "plain", "cascade")}
    print(", ".join(f"{side} {size / 1e6:.2f} M parameters" for side, size in sizes.items()))
    lines = []
    for memory in MEMORY:
        for what in ("training step", "generation"):
            calls = CALLS if what == "generation" and not options.whole else 1
            sides = ("ours", "plain") if what == "generation" else ("ours", "cascade", "plain")
            took, reached = fresh("whole" if options.whole and calls == 1 else what, sides, memory, options.repeats)
            passes = CALLS if what == "generation" else 3
            told = (
                f"{side} {calls * sum(took[side]):.2f} s ({passes * products(side) / reached:.2f} s; "
                f"{calls * took[side][1]:.2f} s)"
                for side in sides
            )
            print(f"{what}, memory {memory} (floor; the system's): {', '.join(told)}", flush=True)
            lines.append(ratio_line(f"{what}, memory {memory}", sum(took["ours"]), sum(took["plain"]), BAR))
    run = step("ours")
    of_ours = sum(median_seconds(run, options.repeats))
    alone, _ = turns(beside(), options.repeats)
    print(
        "beside a step of ours: "
        + ", ".join(f"{name} {1e3 * t:.1f} ms ({t / of_ours:.1%})" for name, t in alone.items()),
        flush=True,
    )
    if options.memory:
        most = {side: peak(side) for side in ("ours", "plain")}
        less = most["plain"] / most["ours"]
        print(", ".join(f"{side} {mib:.0f} MiB" for side, mib in most.items()) + " at the peak of a training step")
        lines.append(f"memory: {less:.2f} times less (bar {SMALLER:g}: {'reached' if less >= SMALLER else 'MISSED'})")
    for attention, bar in (("linear", PER_GENE), ("differential", 4.0)):
        few, many = (step("ours", genes, attention) for genes in (GENES // 2, 2 * GENES))
        each = interleaved({"few": few, "many": many}, max(1, options.repeats // 2))
        growth = each["many"] / each["few"] / 4
        verdict = "reached" if growth <= bar else "MISSED"
        lines.append(
            f"time a gene, {attention}, from {GENES // 2} to {2 * GENES} genes: {growth:.2f} (bar {bar:g}: {verdict})"
        )
    print("\n".join(lines))


def fresh(what: str, sides: tuple[str, ...], memory: str, repeats: int) -> tuple[dict[str, list[float]], float]:
    """CPU seconds of the median process of each side, computing and the system's, the sides taking turns, and the
    median rate of matrix products between them."""
    taken: dict[str, list[list[float]]] = {side: [] for side in sides}
    rates = []
    for _ in range(repeats):
        for side in sides:
            taken[side].append(apart("benchmarks.perturb_step", "--one", side, what, memory=memory))
            rates.append(rate())
    return {side: sorted(found, key=sum)[len(found) // 2] for side, found in taken.items()}, statistics.median(rates)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--memory", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--whole", action="store_true", help="time all calls of a generation, and not one of them")
    parser.add_argument("--peak", metavar="SIDE", help="print one peak in MiB and end")
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "WHAT"), help="print seconds of one and end")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        side, what = options.one
        made = {"training step": step, "generation": velocity, "whole": generation}[what]
        print(*median_seconds(made(side), 1, warm=0 if what == "whole" else WARM))
    elif options.peak:
        run = step(options.peak)
        begun = high_water()
        run()
        print(high_water() - begun)
    else:
        report(options)


if __name__ == "__main__":
    main()
