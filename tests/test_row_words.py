"""What rows let a name say of pieces below it, what they hold fast, and whom an error blames."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from core.cli import main
from core.cli.choose import resolve_run
from core.config import Layer, Resolved, resolve, resolve_part
from core.errors import UserError
from core.kinds import Attention, Loss, ScoreLoss
from core.layers import cli_layer, file_layer
from core.params import params, slot
from core.registry import KINDS, Origin, Registry, installed
from core.rows import read_row
from core.testing.configurations import configurations, samples
from plugins.masks.window_anchor import WindowAnchor
from small import SMALL

ORIGIN = Origin("acme", "1")


@params
class Tokens:
    """A tree whose tokens come in an order, unlike the cells of `spatial`."""

    attention: Attention = slot("softmax", "reads")


def explained(*words: str, files: tuple[Path, ...] = ()) -> Resolved:
    return resolve(Tokens, [*(file_layer(str(file)) for file in files), cli_layer(words)])


def refused(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        resolve_run([], words)
    return str(caught.value)


class TestForwards:
    """Words of a call that belong to a piece below."""

    def test_a_call_reaches_the_piece_below_and_the_chain_names_it(self) -> None:
        """The value stands where it acts, under the name that said it."""
        found = explained("--attention=window_anchor(window=32, anchors=2)")
        setting = found.settings["attention.mask.window"]
        assert (setting.value, setting.origin) == (32, "name window_anchor(window=32, anchors=2)")
        assert found.root.attention.mask == WindowAnchor(window=32, anchors=2)
        assert resolve_part("attention", "window_anchor(window=32)", {}).mask.window == 32

    def test_what_is_said_of_the_piece_itself_beats_the_call(self, tmp_path: Path) -> None:
        """In one layer the parameter's own flag wins; otherwise the higher layer does."""
        key = "attention.mask.window"
        assert explained("--attention=window_anchor(window=32)", "--mask.window=5").settings[key].value == 5
        file = tmp_path / "a.toml"
        file.write_text("[attention.mask]\nwindow = 9\n")
        found = explained("--attention=window_anchor(window=32)", files=(file,))
        assert found.settings[key].value == 32
        assert [link.origin.partition("(")[0] for link in found.settings[key].chain] == [
            "default of WindowAnchor", "a.toml:2", "name window_anchor"
        ]  # fmt: skip
        file.write_text('attention = "window_anchor(window=32)"\n')
        assert explained("--mask.window=5", files=(file,)).settings[key].value == 5

    def test_a_call_gives_way_with_the_piece_that_it_spoke_of(self) -> None:
        """Another mask takes no window; that the call's is unused is said."""
        found = explained("--attention=window_anchor(window=32)", "--mask=causal")
        assert "attention.mask.window" not in found.settings
        assert any("attention.mask.window = 32" in note and "is not used" in note for note in found.notes)

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (["--attention=window_anchor(windw=32)"], "Did you mean 'window'? 'window_anchor' takes window, anchors, "),
            (["--attention=window_anchor", "--attention.window=3"], "Give --attention.mask.window (CLI --attention.w"),
            (["--attention=window_anchor(window=3.5)"], "attention.mask.window: expected int, got 3.5 (name window_an"),
            (["--attention=window_anchor(window=-1)"], "attention.mask.window: must be >= 0, got -1 (name window_anc"),
            (["--attention=window_anchor(window=3,mask.window=4)"], "window and mask.window are one parameter"),
        ],
    )
    def test_mistakes(self, words: list[str], says: str) -> None:
        """Near matches know the words, and values are judged where they act."""
        assert says in refused(*words)

    def test_show_documents_the_words(self, capsys: pytest.CaptureFixture) -> None:
        """`core show` lists them, takes them, and finds near matches among them."""
        assert main(["show", "attention", "window_anchor(window=7)"]) == 0
        assert "a call gives: window to mask.window, anchors to mask.anchors" in capsys.readouterr().out
        assert main(["show", "attention", "window_anchor(widow=7)"]) == 2
        assert "unknown parameter 'widow'. Did you mean 'window'?" in capsys.readouterr().err

    def test_patterns_forward_as_well_and_deprecated_names_too(self) -> None:
        """Holes of a pattern may be words of a piece below; an old name hands its words on."""
        registry = Registry()
        near = {
            "target": "plugins.attention.pairwise:Pairwise",
            "summary": "Near tokens.",
            "preset": {"mask": "window"},
            "pattern": "near{reach:int}",
            "forwards": {"reach": "mask.w"},
        }
        registry.add({"api": 1, "attention": {"near": near, "close": {"deprecated": "near"}}}, ORIGIN)
        assert registry.find("attention", "near5").values == {"mask.w": 5}
        assert registry.find("attention", "close(reach=7)").values == {"mask.w": "7"}
        assert registry.broken == []

    def test_drawn_configurations_keep_what_the_call_says(self) -> None:
        """The laws of a name are put to what it says."""
        for plugin in samples(configurations("attention", "window_anchor(window=3, anchors=1)"), 5):
            assert plugin.mask == WindowAnchor(window=3, anchors=1)  # type: ignore[attr-defined]


class TestKeeps:
    """Names that promise a value."""

    @pytest.mark.parametrize(
        ("words", "says"),
        [
            (
                ["--sparsifier=sparsemax", "--sparsifier.alpha=1.5"],
                "attention.sparsifier.alpha: sparsemax stands for alpha = 2, not 1.5; leave it out, or choose the "
                "sparsifier entmax{alpha:float} (CLI --sparsifier.alpha)",
            ),
            (["--sparsifier=sparsemax(alpha=1.5)"], "not 1.5; leave it out, or choose the sparsifier entmax{alpha:fl"),
            (["--sparsifier=entmax15", "--sparsifier.alpha=2.0"], "entmax15 stands for alpha = 1.5, not 2"),
            (["--sparsifier=entmax15(mode=learned)"], "entmax15 stands for mode = fixed or annealed, not learned"),
        ],
    )
    def test_another_value_is_refused(self, words: list[str], says: str) -> None:
        """A row whose name promises alpha = 2 runs with no other, and the name that takes others is told."""
        assert says in refused(*words)

    def test_the_value_itself_and_other_names_are_free(self) -> None:
        """The promised value may be typed, alpha may be annealed towards it, and a lower layer's falls away."""
        assert explained("--sparsifier=sparsemax(alpha=2.0)").root.attention.sparsifier.alpha == 2.0
        assert explained("--sparsifier=entmax15(mode=annealed)").root.attention.sparsifier.alpha == 1.5
        assert explained("--sparsifier=entmax1.3").root.attention.sparsifier.alpha == 1.3

    def test_part_is_judged_too(self) -> None:
        """A piece made alone is held to its name."""
        with pytest.raises(UserError, match="sparsemax stands for alpha = 2"):
            resolve_part("sparsifier", "sparsemax", {"alpha": 1.5})
        assert all(s.alpha == 2.0 for s in samples(configurations("sparsifier", "sparsemax"), 5))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"forwards": {"w": "window"}}, "forwards.w must name a parameter by its path"),
        ({"forwards": {"W": "mask.w"}}, "forwards.W must name"),
        ({"forwards": {"w": 3}}, "forwards.w must name"),
        ({"forwards": ["w"]}, "forwards must be dict"),
        ({"keeps": {"alpha": 2.0}}, "keeps.alpha must be a list of values"),
        ({"keeps": {"alpha": []}}, "keeps.alpha must be a list of values"),
    ],
)
def test_rows_that_say_it_wrongly_are_broken(row: dict[str, Any], says: str) -> None:
    """A manifest's mistake is told with the row."""
    with pytest.raises(ValueError, match=says):
        read_row("attention", "near", {"target": "a:B", "summary": "Near.", **row}, ORIGIN)


def test_every_builtin_forwards_to_a_parameter_and_keeps_what_it_is() -> None:
    """What the built-in rows name exists, and a row's own values are among those that it keeps."""
    found = 0
    for kind in KINDS:
        for row in installed().rows(kind) if kind != "recipe" else ():
            if not row.forwards and not row.keeps:
                continue
            plugin = resolve_part(kind, row.name, {})
            for path in row.forwards.values():
                piece = plugin
                for name in path.split("."):
                    piece = getattr(piece, name)
                found += 1
            for name, options in row.keeps.items():
                assert getattr(plugin, name) in options
                found += 1
    assert found >= 6


class TestFamilies:
    """A slot that asks for a family of a kind."""

    def test_a_loss_of_another_family_is_blamed_on_its_flag(self) -> None:
        """Nothing else that was typed is named, and the losses that fit are."""
        said = refused("--expression_loss=bce,mse", "--seed=3", "--gate=headwise")
        assert said.startswith("expression_loss: the loss 'bce' does not fit where a ValueLoss is asked for (One pred")
        assert said.endswith("those that fit: mse, distance_mse (CLI --expression_loss)")

    def test_single_slots_ask_for_families_too(self) -> None:
        """One place for one loss is judged alike; a slot of the whole kind takes any."""

        @params
        class Narrow:
            """Ranks."""

            loss: ScoreLoss = slot("bce", "how wrong")

        @params
        class Wide:
            """Takes anything."""

            loss: Loss = slot("bce", "how wrong")

        mse = Layer("CLI", {"loss": ("mse", "CLI --loss")})
        with pytest.raises(
            UserError, match=r"loss: the loss 'mse' does not fit where a ScoreLoss .*aucm.*\(CLI --loss\)"
        ):
            resolve(Narrow, [mse])
        assert resolve(Wide, [mse]).settings["loss"].value == "mse"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--gate=tempered(temperature=0.1)", "--gate.bias=2"], "(name tempered(temperature=0.1))"),
        (["--ffn=moe4x9", "--ffn.ratio=2"], "(name moe4x9)"),
        (["--position_loss=", "--seed=3", "--width=32"], "(CLI --position_loss)"),
        (["--train.betas=0.5", "--train.lr=0.1"], "(CLI --train.betas)"),
    ],
)
def test_only_the_parameters_that_an_error_names_are_blamed(words: list[str], said: str) -> None:
    """Of what was typed, the origins of the named parameters stand behind a contradiction, and no others."""
    assert refused(*words).endswith(said)


@pytest.mark.parametrize("mask", ["window_anchor", "full_fallback"])
def test_disagreeing_anchors_name_both_flags(mask: str) -> None:
    """Mask and anchor piece each say a number; either may be changed."""
    layer = resolve_part("attention", "softmax", {"mask": mask, "anchor": "projection", "heads": 2}).build(8)
    with pytest.raises(ValueError, match=r"set --mask\.anchors 2, or --anchor\.count 4"):
        layer(torch.zeros(1, 5, 8))
    agreed: Attention = resolve_part(
        "attention", "softmax", {"mask": "window_anchor(anchors=2)", "anchor": "projection", "heads": 2}
    )
    assert agreed.build(8)(torch.zeros(1, 5, 8)).shape == (1, 5, 8)


@pytest.mark.parametrize(("ffn", "beside"), [("moe2x1", True), ("dense", False)])
def test_the_caption_says_what_training_has_beside_the_task(tmp_path: Path, ffn: str, beside: bool) -> None:
    """Where layers add losses of their own, the learning curves' caption tells that validation leaves them out."""
    run = tmp_path / "run"
    words = [word for word in SMALL if not word.startswith("--ffn")]
    assert main(["run", *words, f"--ffn={ffn}", "--train.steps=2", "--train.log_every=1", "-q", "-o", str(run)]) == 0
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first = records[0]
    assert ("train/auxiliary" in first) == beside
    extra = [value for key, value in first.items() if key.startswith("train/loss/") and "balance" in key]
    assert first.get("train/auxiliary", 0.0) == pytest.approx(sum(extra))
    page = html.unescape((run / "report.html").read_text())
    assert ("The training loss holds what layers ask for beside the task" in page) == beside
