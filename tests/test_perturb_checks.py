"""What does nothing in the system `perturb`, or needs what genes have not, is refused with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

from core.choices import Resolved
from core.cli.choose import resolve_run
from core.config import resolve_part
from core.errors import UserError
from core.kinds import Backbone, Time
from plugins.times.aligned import Aligned
from plugins.times.cascaded import Cascaded
from plugins.times.independent import Independent
from response import BACKBONES, card, parts


def resolved(*words: str) -> Resolved:
    return resolve_run([], ["--system=perturb", *words])


ALONE = "--extractor=none"
VAIN: list[tuple[list[str], str]] = [
    ([ALONE, "--latent_steps=3"], "latent_steps: 3 does nothing, as extractor is none"),
    ([ALONE, "--latent_weight=2"], "latent_weight: 2 does nothing, as extractor is none"),
    ([ALONE, "--latent_of=covered"], "latent_of: covered does nothing, as extractor is none"),
    ([ALONE, "--latent_guidance=2"], "latent_guidance: 2 does nothing, as extractor is none"),
    ([ALONE, "--latent_loss=distance_mse"], "latent_loss does nothing with extractor = none"),
    ([ALONE, "--backbone.frame.latent_bottleneck=4"], "latent_bottleneck = 4 does nothing, as with extractor = none"),
    ([ALONE, "--backbone=perceiver", "--backbone.frame.latent_act=gelu"], "latent_act = gelu does nothing"),
    ([ALONE, "--backbone=diff_transformer", "--backbone.frame.decoder_depth=0"], "decoder_depth = 0 does nothing"),
    ([ALONE, "--time=aligned"], "time = aligned says how streams go together, .* take time = shared"),
    ([ALONE, "--time=independent"], "time = independent says how streams go together"),
    ([ALONE, "--time=cascaded"], r"time = cascaded says how streams .* there is one; .*--extractor, CLI --time\)"),
    ([ALONE, "--time.beta=0.5"], r"time.beta = 0.5 does nothing, as with extractor = none .*CLI --time.beta"),
    ([ALONE, "--time=only"], "time = only says how streams go together"),
    (
        [ALONE, "--time.share=0.2", "--time.early=0.1"],
        "time.share = 0.2 and time.early = 0.1 do nothing, as .* them out",
    ),
    (["--time=aligned", "--latent_steps=3"], "latent_steps: 3 does nothing, as time is aligned"),
    (["--time=shared", "--latent_steps=3"], "choose time = cascaded or cascaded_noised"),
    (["--time=cascaded", "--time.first=expression"], "latents would come last, and change no cell"),
    (["--time=cascaded", "--time.first=latnet"], "'latnet' is no stream .* has expression, latent .CLI --time"),
    (["--guided_from=0.2"], "guided_from: 0.2 does nothing, as guidance is 1"),
    (["--guided_to=0.2"], "guided_to: 0.2 does nothing"),
    (["--latent_guidance=2", "--guided_to=0.2"], "guided_to: 0.2 does nothing, as guidance is 1"),
    (["--guidance=2", "--latent_guided_to=0.2"], "latent_guided_to: 0.2 does nothing, as latent_guidance is 1"),
    ([ALONE, "--latent_guided_from=0.2"], "latent_guided_from: 0.2 does nothing, as extractor is none"),
    (["--guidance=2", "--guided_from=0.8", "--guided_to=0.8"], "guided_to = 0.8, so nothing is guided"),
    (["--guidance=2", "--forget=0"], "guidance = 2 leads away from .* train with forget above 0"),
    (["--latent_guidance=0", "--forget=0"], "latent_guidance = 0 leads away"),
    (["--sample_loss=none", "--sample_weight=2"], "sample_weight: 2 does nothing, as sample_loss is none"),
    (["--latent_of=covered"], "latent_of = covered does nothing with extractor = pca, which covers all genes"),
    (["--time=only", "--time.stream=latent"], "time.stream = latent teaches no expression"),
    (["--time=only", "--time.stream=latnet"], "'latnet' is no stream"),
    (["--time=only", "--latent_weight=2"], "latent_weight: 2 does nothing, as time is only"),
    ([ALONE, "--time=only"], "time = only says how streams go together"),
    (["--time=aligned", "--latent_shift=2"], "latent_shift: 2 does nothing, as time is aligned"),
    (["--solver=dopri5", "--sampling_shift=2"], "sampling_shift = 2 does nothing with a solver that chooses its own"),
    (["--metrics="], "metrics each need at least one name"),
]


@pytest.mark.parametrize(("words", "says"), VAIN, ids=lambda x: " ".join(x) if isinstance(x, list) else "")
def test_what_does_nothing_is_refused(words: list[str], says: str) -> None:
    """A value that would change no cell is refused, with what it hangs on."""
    with pytest.raises(UserError, match=says):
        resolved(*words)


ACTS: list[list[str]] = [
    [ALONE],
    [ALONE, "--time=shared"],
    [ALONE, "--time.law=logit_normal", "--time.first_mean=0.1", "--time.stratified=false"],
    [ALONE, "--backbone.frame.neighbours=0"],
    ["--time=aligned"],
    ["--time=aligned", "--time.first=expression"],
    ["--guidance=2", "--guided_from=0.2"],
    ["--latent_guidance=2", "--latent_guided_to=0.2"],
    ["--forget=0"],
    ["--sample_loss=none"],
    ["--latent_steps=3", "--latent_weight=2", "--latent_of=covered", "--extractor.covers=expressed"],
    ["--latent_of=covered", "--extractor=shuffled(of=scgpt_random)"],
    ["--time=only", "--sampling_shift=0.5"],
    ["--latent_shift=0.5"],
]


@pytest.mark.parametrize("words", ACTS, ids=" ".join)
def test_what_does_something_is_taken(words: list[str]) -> None:
    """Nothing else is refused, and nothing is put aside."""
    assert resolved(*words).notes == ()


@pytest.mark.parametrize(
    ("word", "left"), [(ALONE, "latent_steps"), ("--time=aligned", "latent_steps"), ("--guidance=1", "guided_from")]
)
def test_a_later_choice_puts_aside_what_it_makes_idle(word: str, left: str, tmp_path: Path) -> None:
    """What a file says of latents, of stages and of guidance is left out, with a note, where a flag does without."""
    file = tmp_path / "a.toml"
    file.write_text('system = "perturb"\nlatent_steps = 3\nguidance = 2.0\nguided_from = 0.2\n')
    found = resolve_run([str(file)], [word])
    assert getattr(found.root.system, left) == found.settings[left].field.default
    (note,) = found.notes
    assert note.startswith(f"{left} = ")
    assert "is not used" in note


PLACED = [
    *((f"--attention.mask={name}", "take the mask `full`") for name in (
        "causal", "block_causal", "window", "window_causal", "window_anchor", "neighbours", "cross_only",
        "full_fallback",
    )),
    *((f"--attention.position={name}", "take the position `none`") for name in (
        "rope", "sinusoidal", "fourier", "direction_distance",
    )),
]  # fmt: skip


@pytest.mark.parametrize(("word", "instead"), PLACED)
@pytest.mark.parametrize("attention", ["differential", "softmax"])
def test_genes_have_neither_order_nor_places(attention: str, word: str, instead: str) -> None:
    """Pieces that tell tokens apart by where they stand are refused, whatever attention they are in."""
    with pytest.raises(UserError, match=f"the genes of a cell come in no order and lie at no place; {instead}"):
        resolved(f"--attention={attention}", word)


@pytest.mark.parametrize("name", ["alphastomics", "cells", "luna"])
def test_networks_of_other_tokens(name: str, core: Callable[..., Any]) -> None:
    """A network that embeds no genes is refused before anything is trained."""
    said = core("run", "--system=perturb", f"--backbone={name}", "--data.cells=6", "--dry-run")
    assert said.code == 2
    assert f"do not fit together: backbone {name} " in said.err


ABSENT: list[tuple[list[str], str, str]] = [
    (["--extractor=scgpt(dir=absent)"], "there is no folder absent", "(CLI --extractor)"),
    (["--extractor=precomputed(file=absent.h5)"], "there is no file absent.h5", "(CLI --extractor)"),
    (["--extractor=precomputed", "--extractor.file=list.txt"], "list.txt is no HDF5 file", "CLI --extractor.file)"),
    (["--extractor=shuffled(of=precomputed(file=absent.h5))"], "there is no file absent.h5", "(CLI --extractor)"),
    (["--extractor=scgpt(dir=broken)"], "args.json has no 'embsize'", "(CLI --extractor)"),
]


@pytest.mark.parametrize(("words", "says", "source"), ABSENT, ids=lambda x: str(x))
def test_files_of_extractors_are_told_with_the_flag_that_named_them(
    words: list[str], says: str, source: str, core: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder or file that is absent or damaged ends with one sentence that says who named it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.txt").write_text("A\n")
    (tmp_path / "broken").mkdir()
    for name in ("args.json", "vocab.json", "best_model.pt"):
        (tmp_path / "broken" / name).write_text("{}")
    said = core("run", "--system=perturb", *words, "--data.cells=6", "--dry-run")
    assert said.code == 2
    assert says in said.err
    assert source in said.err


CHANGES: list[tuple[Time, dict[str, object]]] = [
    (Independent(), {"clean": 0.9}),
    (Cascaded(clean="noised"), {"share": 0.7, "beta": 0.5, "early": 0.3, "first": "a"}),
    (Cascaded(law="logit_normal"), {"other_mean": 0.3, "other_sd": 1.5, "clean": "noised"}),
    (Aligned(law="logit_normal"), {"shift": 2.0, "share": 0.7, "first": "a", "other_mean": 0.3, "other_sd": 1.5}),
]


@pytest.mark.parametrize(("time", "changed"), CHANGES, ids=str)
def test_idle_parameters_of_times(time: Time, changed: dict[str, object]) -> None:
    """What a time calls idle for one stream changes no draw of it, and draws of two streams it does change."""
    assert {*changed} <= {*time.idle(("a",))}
    assert time.idle(("a", "b")) == ()
    for name, value in changed.items():
        other = attrs.evolve(time, **{name: value})
        one, same = (t.assign(40, ("a",), torch.Generator().manual_seed(0)).times["a"] for t in (time, other))
        assert torch.equal(one, same)
        pair, differs = (t.assign(40, ("a", "b"), torch.Generator().manual_seed(0)).times for t in (time, other))
        assert any(not torch.equal(pair[m], differs[m]) for m in pair)


@pytest.mark.parametrize("name", BACKBONES)
def test_idle_parameters_of_networks(name: str) -> None:
    """What a network calls idle changes none of its parameters without latents, and some with them."""
    changes = {"frame.latent_bottleneck": 5, "frame.decoder_depth": 2}

    def shapes(streams: tuple[str, ...], **how: object) -> list[torch.Size]:
        made: Backbone = resolve_part("backbone", name, {"frame.heads": 2, **how})
        assert {*changes} <= {*made.idle(("expression",))}
        assert made.idle(("expression", "latent")) == ()
        return [p.shape for p in made.build(card(), parts(streams=streams)).parameters()]

    for key, value in changes.items():
        assert shapes(("expression",), **{key: value}) == shapes(("expression",))
        assert shapes(("expression", "latent"), **{key: value}) != shapes(("expression", "latent"))


@pytest.mark.parametrize("knob", ["expression_loss", "latent_loss"])
def test_values_are_no_places(knob: str) -> None:
    """A loss that compares places by their distances is refused for values of genes."""
    with pytest.raises(UserError, match=r"distance_mse.*genes of a cell have values; take the loss `mse`"):
        resolved(f"--{knob}=distance_mse")
