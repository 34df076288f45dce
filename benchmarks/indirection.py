"""What the assembly from plugins costs: one training step of the assembled spatial system against the same by hand.

    python -m benchmarks.indirection

Both sides hold the same weights, draw the same times and noise, and must give the same loss; the hand-written side is
one file without registry, slots or interfaces. Prints the ratio of their steps, forward and backward, on one thread.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.cli.choose import resolve_run
from core.train.loop import Trainer
from core.train.streams import Streams
from plugins.ffn._grouped import fetch, serve, serve_and_combine
from plugins.ffn._router import LOGIT_LIMIT
from plugins.losses.distance_mse import _DistanceError

BAR = 1.01
HEADS, EXPERTS, TOP, FREQUENCIES = 8, 4, 2, 16


class Layer(nn.Module):
    """Gated attention and a mixture of four experts, two of them for each cell."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(width, 6 * width)
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.query_scale, self.key_scale = (nn.Parameter(torch.ones(width // HEADS)) for _ in range(2))
        self.gate = nn.Linear(width, HEADS)
        self.router = nn.Linear(width, EXPERTS, bias=False)
        self.up, self.up_bias = (
            nn.Parameter(torch.empty(EXPERTS, width, width)),
            nn.Parameter(torch.empty(EXPERTS, width)),
        )
        self.down, self.down_bias = (
            nn.Parameter(torch.empty(EXPERTS, width, width)),
            nn.Parameter(torch.empty(EXPERTS, width)),
        )

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        scale_a, shift_a, open_a, scale_f, shift_f, open_f = self.modulation(F.silu(condition))[:, None].chunk(6, -1)
        width = x.shape[-1]
        h = F.layer_norm(x, (width,)) * (1 + scale_a) + shift_a
        q, k, v = (f(h).unflatten(-1, (HEADS, -1)) for f in (self.query, self.key, self.value))
        q = F.rms_norm(q, self.query_scale.shape, self.query_scale, eps=1e-6).transpose(1, 2)
        k = F.rms_norm(k, self.key_scale.shape, self.key_scale, eps=1e-6).transpose(1, 2)
        read = F.scaled_dot_product_attention(q, k, v.transpose(1, 2))
        read = read * self.gate(h).sigmoid().transpose(1, 2)[..., None]
        x = x + (1 + open_a) * self.output(read.transpose(1, 2).flatten(2))
        h = (F.layer_norm(x, (width,)) * (1 + scale_f) + shift_f).flatten(0, 1)
        logits = (h @ self.router.weight.T).clamp(-LOGIT_LIMIT, LOGIT_LIMIT)
        top, chosen = logits.topk(TOP, -1)
        flat = chosen.flatten()
        order, counts = flat.argsort(stable=True), torch.bincount(flat, minlength=EXPERTS)
        inverse = torch.empty_like(order).scatter_(0, order, torch.arange(len(order))).view_as(chosen)
        ends = counts.cumsum(0).tolist()
        spans = list(zip([0, *ends], ends, strict=False))
        inner = F.gelu(serve(fetch(h, order // TOP, inverse), self.up, self.up_bias, spans))
        places = (order // TOP, inverse)
        thought = serve_and_combine(inner, self.down, self.down_bias, top.softmax(-1), *places, spans).view_as(x)
        balance = 0.01 * EXPERTS * (counts / counts.sum() * logits.softmax(-1).mean(0)).sum()
        return x + (1 + open_f) * thought, balance


class ByHand(nn.Module):
    """The network of `core run --attention gated_headwise --ffn moe4x2`, written out."""

    def __init__(self, genes: int, dims: int, width: int, depth: int) -> None:
        super().__init__()
        self.expression_in = nn.Sequential(nn.Linear(genes, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.place_in = nn.Sequential(nn.Linear(dims + 1, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.time = nn.Sequential(nn.Linear(4 * FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))
        self.layers = nn.ModuleList(Layer(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.expression_out = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, genes))
        self.place_out = nn.Linear(width, dims)

    def forward(self, expression: Tensor, place: Tensor, times: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        frequency = torch.exp2(torch.arange(FREQUENCIES, dtype=torch.float32) * (8 / FREQUENCIES)) * math.pi
        waves = [torch.cat([(t[:, None] * frequency).sin(), (t[:, None] * frequency).cos()], -1) for t in times]
        condition = self.time(torch.cat(waves, -1))
        x = self.expression_in(expression)
        x = x + self.place_in(torch.cat([place, torch.linalg.vector_norm(place, dim=-1, keepdim=True)], -1))
        balance = x.new_zeros(())
        for layer in self.layers:
            x, extra = layer(x, condition)
            balance = balance + extra
        x = self.norm(x)
        return self.expression_out(x), self.place_out(x), balance


def step(net: ByHand, expression: Tensor, place: Tensor, seed: int, number: int, times_of: object) -> Tensor:
    """Loss of one batch of unpadded sets: cosine path, data prediction, distances and coordinates."""
    streams, sets = Streams(seed), len(expression)
    place = place - place.mean(1, keepdim=True)
    drawn = times_of.draw(sets, ("expression", "position"), streams.generator("time", number))  # type: ignore[attr-defined]
    times = [drawn["expression"], drawn["position"]]
    generator = streams.generator("noise", number)
    noise = [torch.randn(expression.shape, generator=generator), torch.randn(place.shape, generator=generator)]
    noise[1] = noise[1] - noise[1].mean(1, keepdim=True)
    alone, share, clean = [], [], [expression, place]
    for x, eps, t in zip(clean, noise, times, strict=True):
        angle = lambda u: math.pi / 2 * (u + 0.008) / 1.008  # noqa: E731
        alpha = (angle(1 - t).cos() / math.cos(angle(0.0))) ** 2
        sigma = (1 - alpha**2).clamp_min(0).sqrt()
        alpha, sigma = alpha[:, None, None], sigma[:, None, None]
        alone.append(alpha * (alpha * x + sigma * eps))
        share.append(sigma)
    raw_expression, raw_place, balance = net(alone[0], alone[1], times)
    found = [alone[0] + share[0] * raw_expression, alone[1] + share[1] * raw_place]
    found[1] = found[1] - found[1].mean(1, keepdim=True)
    asked = [(t < 1).float() for t in times]
    loss = ((found[0] - expression).square().mean((1, 2)) * asked[0]).mean()
    loss = loss + ((found[1] - place).square().mean((1, 2)) * asked[1]).mean()
    real = (times[1] < 1)[:, None].expand(place.shape[:2])
    return loss + _DistanceError.apply(found[1], place, real, 256).mean() + balance


def copy_weights(ours: nn.Module, net: ByHand) -> None:
    """The assembled model's weights in the hand-written one."""
    told = {
        "encoder.expression": "expression_in", "encoder.place": "place_in", "expression.": "expression_out.",
        "position.": "place_out.", "blocks": "layers", ".attention.query_norm.weight": ".query_scale",
        ".attention.key_norm.weight": ".key_scale", ".attention.gate.score": ".gate", ".attention.": ".",
        ".ffn.experts.up_EDF": ".up", ".ffn.experts.up_bias_EF": ".up_bias", ".ffn.experts.down_EFD": ".down",
        ".ffn.experts.down_bias_ED": ".down_bias", ".ffn.router": ".router",
    }  # fmt: skip
    state = {}
    for name, value in ours.state_dict().items():
        for old, new in told.items():
            if name.startswith(old) if old[0] != "." else old in name:
                name = name.replace(old, new, 1)
                if old.startswith((".attention.", ".ffn.")):
                    break
        state[name] = value
    net.load_state_dict(state)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=300)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    run = resolve_run([], ["--attention=gated_headwise", "--ffn=moe4x2", "--dropout=0"]).root
    trainer = Trainer(
        system=run.system,
        source=run.data.open(),
        settings=run.train,
        strategy=run.strategy,
        device=torch.device("cpu"),
        seed=0,
    )
    sizes = trainer.source.describe().sizes
    net = ByHand(sizes["genes"], sizes["dims"], run.system.width, run.system.depth)
    copy_weights(trainer.model, net)
    optimiser = torch.optim.AdamW(net.parameters())
    batch = trainer.train_split.batch(0, 0)
    expression, place = batch.fields["expression"], batch.fields["position"]
    numbers = {"assembled": 0, "by hand": 0}

    def assembled() -> float:
        numbers["assembled"] += 1
        trainer.optimiser.zero_grad(set_to_none=True)
        loss = trainer._forward(batch, numbers["assembled"]).total()
        loss.backward()
        return loss.item()

    def by_hand() -> float:
        numbers["by hand"] += 1
        optimiser.zero_grad(set_to_none=True)
        loss = step(net, expression, place, 0, numbers["by hand"], run.system.time)
        loss.backward()
        return loss.item()

    for _ in range(3):
        left, right = assembled(), by_hand()
        if not math.isclose(left, right, rel_tol=2e-5):
            print(f"the two sides disagree: loss {left} assembled, {right} by hand", file=sys.stderr)
            return 1
    print(f"losses agree: {left:.6f} and {right:.6f}")
    taken: dict[str, list[float]] = {"assembled": [], "by hand": []}
    for turn in range(repeats):
        # The sides swap places every turn, so that neither profits from what the other left in the caches.
        for name in list(taken)[:: 1 if turn % 2 else -1]:
            begin = time.process_time()
            {"assembled": assembled, "by hand": by_hand}[name]()
            taken[name].append(time.process_time() - begin)
    pairs = [a / b for a, b in zip(taken["assembled"], taken["by hand"], strict=True)]
    ratio = statistics.median(pairs)
    low, high = (sorted(pairs)[round(q * (repeats - 1))] for q in (0.25, 0.75))
    ours, theirs = (1e3 * statistics.median(taken[name]) for name in taken)
    least = min(taken["assembled"]) / min(taken["by hand"])
    print(f"quickest step of each side: {least:.3f}x")
    print(f"assembled {ours:.1f} ms, by hand {theirs:.1f} ms a step (CPU time, one thread, {repeats} pairs)")
    verdict = "reached" if ratio <= BAR else "MISSED"
    print(f"indirection: {ratio:.3f}x, half of the pairs within {low:.3f} to {high:.3f} (bar {BAR}x: {verdict})")
    return 0 if ratio <= BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
