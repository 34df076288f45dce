"""Recipes build the origins' networks: their sizes to the parameter, and their choices under flags."""

from __future__ import annotations

import pytest
import torch

from core.cli.choose import resolve_run
from core.config import resolve_part
from core.kinds import Card
from core.kinds.ffn import RoutedLayer
from plugins.systems.perturb.system import Perturb

LINEAR = ["--attention=linear(bias=false)", "--backbone.block=4"]
MOE = "--ffn=moe{}(activation=relu,noise=0.01,balanced=first)"
SMALL = [
    "--width=128", "--depth=2", "--attention.heads=4", "--ffn.ratio=2", "--encoder.hidden=64",
    "--backbone.time_width=32", "--backbone.time_hidden=32", "--backbone.time_inner=64", "--backbone.place_hidden=32",
    "--backbone.expression_hidden=128", "--backbone.position_hidden=64",
]  # fmt: skip


def sizes(recipe: str, genes: int, dims: int, *words: str) -> tuple[int, int]:
    """Parameters of a recipe's network, all and those that a cell uses."""
    system = resolve_run([], [f"--recipe={recipe}", *words]).root.system
    with torch.device("meta"):
        network = system.build(Card(name="", sizes={"genes": genes, "dims": dims}, splits={}, fingerprint=""))
    total = sum(p.numel() for p in network.parameters())
    return total, total - sum(m.idle() for m in network.modules() if isinstance(m, RoutedLayer))


@pytest.mark.parametrize(
    ("words", "total", "active"),
    [
        (LINEAR, 707_508, 707_508),
        (["--attention=gated_headwise"], 444_988, 444_988),
        ([*LINEAR, MOE.format("4x2")], 710_324, 644_020),
        (["--attention=gated_headwise", MOE.format("4x2")], 447_804, 381_500),
        (["--attention=softmax"], 443_956, 443_956),
        (["--attention=gated_headwise", "--attention.qk_norm=false"], 444_860, 444_860),
        ([], 476_980, 476_980),
        ([MOE.format("4x2")], 479_796, 413_492),
    ],
)
def test_alphastomics_is_of_the_published_sizes(words: list[str], total: int, active: int) -> None:
    """The comparison of four configurations that the origin ships, and its other gates, to the parameter."""
    assert sizes("alphastomics", 100, 3, *SMALL, *words) == (total, active)


@pytest.mark.parametrize(
    ("words", "total", "active"),
    [
        (LINEAR, 9_756_960, 9_756_960),
        (["--attention=softmax"], 6_602_400, 6_602_400),
        (["--attention=gated_headwise"], 6_614_736, 6_614_736),
        ([], 6_997_152, 6_997_152),
        ([*LINEAR, MOE.format("4x2")], 9_773_856, 8_194_848),
        ([MOE.format("8x2")], 7_032_480, 4_659_360),
    ],
)
def test_alphastomics_is_of_its_default_sizes(words: list[str], total: int, active: int) -> None:
    """The origin's own configuration at 500 genes, to the parameter."""
    assert sizes("alphastomics", 500, 3, *words) == (total, active)


def test_luna_is_of_its_size() -> None:
    """LUNA at the 254 genes of the mouse cortex, to the parameter."""
    assert sizes("luna", 254, 2) == (8_805_080, 8_805_080)


def test_the_feed_forward_networks() -> None:
    """One layer's network at width 128: dense, all experts, and the two of four that a cell uses."""
    moe = resolve_part("ffn", MOE.format("4x2").removeprefix("--ffn="), {"ratio": 2.0})
    assert resolve_part("ffn", "dense", {"ratio": 2.0}).params(128) == 65_920
    assert moe.params(128) == 67_328
    assert moe.params(128) - moe.build(128).idle() == 34_176


def test_the_saving_is_the_hidden_feed_forward() -> None:
    """The linear block less gated attention is two feed-forward networks less what gated attention has more."""
    block, bare = sizes("alphastomics", 100, 3, *SMALL, *LINEAR)[0], sizes("alphastomics", 100, 3, *SMALL)[0]
    headwise = sizes("alphastomics", 100, 3, *SMALL, "--attention=gated_headwise")[0]
    hidden = 2 * resolve_part("ffn", "dense", {}).params(128)
    assert hidden == 263_424
    assert block - headwise == hidden - 904
    assert headwise < bare
    alone = sizes("alphastomics", 100, 3, *SMALL, "--attention=linear(bias=false)")[0]
    assert alone == block - hidden - 2 * 2 * 2 * 128


def test_flags_override_a_recipe_and_origins_are_told() -> None:
    """A flag wins over the recipe, the recipe over defaults, and each value knows who gave it."""
    found = resolve_run([], ["--recipe=luna", "--sampling=7", "--train.steps=3"])
    assert found.root.system.sampling == 7
    assert found.root.system.mode == "expr_to_pos"
    assert found.settings["mode"].origin == "recipe luna"
    assert found.settings["sampling"].origin == "CLI --sampling"
    assert (found.root.train.steps, found.root.train.epochs) == (3, 0)
    assert resolve_run([], ["--recipe=alphastomics"]).root.train.lr == 1e-4


def test_what_a_system_suggests_gives_way_to_flags_and_is_told() -> None:
    """Settings that a system suggests come below every layer that a user writes, and each says where it is from."""
    found = resolve_run([], ["--system=perturb"])
    assert found.root.train.lr == Perturb.suggests["train.lr"]
    assert found.settings["train.lr"].origin == "system perturb"
    assert resolve_run([], ["--system=perturb", "--train.lr=1e-4"]).root.train.lr == 1e-4
    assert resolve_run([], ["--system=spatial"]).settings["train.lr"].origin == "default of Train"


@pytest.mark.parametrize("words", [["--recipe=luna", "--mode=joint"], ["--backbone=luna"]])
def test_luna_predicts_positions_alone(words: list[str]) -> None:
    """Asked for expression, it says what to choose."""
    system = resolve_run([], words).root.system
    with pytest.raises(ValueError, match="positions alone; take mode = expr_to_pos"):
        system.build(Card(name="", sizes={"genes": 5, "dims": 2}, splits={}, fingerprint=""))
