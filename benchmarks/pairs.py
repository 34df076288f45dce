"""Differential attention against two explicit maps, and linear attention against softmax attention.

    python -m benchmarks.pairs

One forward and backward pass of whole layers in float32, in CPU time of one thread, the sides of a table taking turns.
`differential` is the layer of that name, 16 sets of 500 tokens of width 128 in 8 heads; the other side has the same
weights, but forms two softmax matrices and subtracts them. The wide case is there to show what bounds the gain: with
heads 128 wide most of the time goes into products that both sides have. `linear` is compared with `softmax` without
norm and gate, which is PyTorch's fused attention between four projections.

B batch, N tokens, D width, H heads, K head width.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from benchmarks.common import interleaved, ratio_line
from core.config import resolve_part

DIFFERENTIAL, LINEAR = 3.0, 20.0
"""how many times faster"""
EQUAL = 1e-6
"""how far results may be apart, relative to the largest"""


class TwoMaps(nn.Module):
    """Textbook differential attention with the weights of a layer: W_o (1 - lambda_0) RMSNorm((W_1 - lambda W_2) v)."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x_BND: Tensor) -> Tensor:
        layer = self.layer
        heads = (layer.plugin.heads, -1)
        q_1, k_1, q_2, k_2, v_BHNK = (
            project(x_BND).unflatten(-1, heads).transpose(1, 2)
            for project in (layer.query_1, layer.key_1, layer.query_2, layer.key_2, layer.value)
        )
        read_BHNK = two_maps(q_1, k_1, q_2, k_2, v_BHNK, layer.share())
        out_BHNK = layer.norm(read_BHNK) * (1.0 - layer.plugin.initial)
        return layer.output(out_BHNK.transpose(1, 2).flatten(2))


def two_maps(q_1: Tensor, k_1: Tensor, q_2: Tensor, k_2: Tensor, v_BHNK: Tensor, share: Tensor) -> Tensor:
    """(W_1 - lambda W_2) v with both matrices formed."""
    scale = 1.0 / math.sqrt(q_1.shape[-1])
    first_BHNN = torch.softmax(q_1 @ k_1.mT * scale, dim=-1)
    second_BHNN = torch.softmax(q_2 @ k_2.mT * scale, dim=-1)
    return (first_BHNN - share * second_BHNN) @ v_BHNK


def passes(run: Callable[[], Tensor], inputs: list[Tensor]) -> Callable[[], list[Tensor]]:
    """One forward and backward pass: what comes out, and the gradients of its sum of squares."""

    def both() -> list[Tensor]:
        out = run()
        return [out.detach(), *torch.autograd.grad(out, inputs, out.detach())]

    return both


def table(title: str, sides: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Time the sides and print what each took."""
    took = interleaved(sides, repeats)
    print(f"{title}: milliseconds of CPU, median of {repeats}")
    for name, seconds in took.items():
        print(f"  {name:24} {1e3 * seconds:9.1f}", flush=True)
    return took


def apart(one: list[Tensor], other: list[Tensor]) -> float:
    """The greatest difference of any number, relative to the largest of its tensor."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(one, other, strict=True))


def differential(width: int, options: argparse.Namespace, bar: float | None) -> None:
    """Time the layer of a width against the explicit one, and say how far they are apart."""
    torch.manual_seed(0)
    layer = resolve_part("attention", "differential", {"heads": options.heads}).build(width)
    x_BND = torch.randn(options.batch, options.tokens, width, requires_grad=True)
    # Key biases move no softmax: their gradients are 0, and what is computed of them is rounding alone.
    weights = [weight for name, weight in layer.named_parameters() if name not in ("key_1.bias", "key_2.bias")]
    explicit, inputs = TwoMaps(layer), [x_BND, *weights]
    sides = {
        "differential": passes(lambda: layer(x_BND), inputs),
        "two explicit maps": passes(lambda: explicit(x_BND), inputs),
    }
    took = table(f"B{options.batch} H{options.heads} N{options.tokens} D{width}", sides, options.repeats)
    print(ratio_line("differential", took["differential"], took["two explicit maps"], bar))
    distance = apart(*(side() for side in sides.values()))
    print(f"differential differs by {distance:.1e} (bar {EQUAL:g}: {'reached' if distance <= EQUAL else 'MISSED'})\n")


def linear(options: argparse.Namespace) -> None:
    """Time linear attention against fused softmax attention."""
    torch.manual_seed(0)
    x_BND = torch.randn(1, options.long, options.width, requires_grad=True)
    sides = {}
    for name, values in (("linear", {}), ("softmax", {"qk_norm": False})):
        layer = resolve_part("attention", name, {"heads": options.heads, **values}).build(options.width)
        sides[name] = passes(lambda layer=layer: layer(x_BND), [x_BND, *layer.parameters()])
    took = table(f"N{options.long} D{options.width} H{options.heads}", sides, options.long_repeats)
    print(ratio_line("linear", took["linear"], took["softmax"], LINEAR))


def main() -> None:
    parser = argparse.ArgumentParser(description="differential and linear attention against explicit and fused maps")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=500)
    parser.add_argument("--long", type=int, default=16_384, help="tokens of the comparison with linear attention")
    parser.add_argument("--width", type=int, default=256, help="of that comparison")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--long-repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    differential(128, options, DIFFERENTIAL)
    differential(1024, options, None)
    linear(options)


if __name__ == "__main__":
    main()
