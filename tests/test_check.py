"""`core check`: third parties' pieces, and our own, before the laws of their kinds."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.params import fields
from core.registry import KINDS, installed
from core.testing.configurations import configurations, drawable, needed, samples
from core.testing.laws import LAWS, MORE, ONE_BY_ONE
from tests.fakes import command, package, python

HEAD = """
import torch
from torch import nn

from core.kinds import FFN, Attention, Aux, Gate, GateLayer, Mask, Sparsifier
from core.params import knob, params

"""
DOCS = (Path(__file__).resolve().parent.parent / "docs" / "plugins.md").read_text("utf-8")
GATE = next(block for block in re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL) if "class Swing" in block)
"""the piece that the documentation writes"""
MASK = (
    HEAD
    + '''
@params
class Stride(Mask):
    """A token sees every other token, and says that it sees them all."""

    def sees(self, q, s):
        return (q - s) % 2 == 0

    def pairs(self, queries, sources):
        return queries * sources
'''
)
SPARSIFIER = (
    HEAD
    + '''
@params
class Loose(Sparsifier):
    """Sigmoids that nothing sums up."""

    def build(self, heads):
        return LooseWeights()


class LooseWeights(nn.Module):
    def forward(self, logits_BHQS, visible):
        return torch.sigmoid(logits_BHQS) * visible
'''
)
NETWORK = (
    HEAD
    + '''
@params
class Centred(FFN):
    """A map of tokens less their mean, padding included."""

    def build(self, width):
        return CentredLayer(width)

    def params(self, width):
        return width * width

    def flops(self, width, tokens):
        return 2 * tokens * width * width


class CentredLayer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.map = nn.Linear(width, width, bias=False)

    def forward(self, x_BTD, real_BT=None):
        return self.map(x_BTD - x_BTD.mean(1, keepdim=True)), Aux()
'''
)
ATTENTION = (
    HEAD
    + '''
@params
class Leaky(Attention):
    """A mean of all sources that takes padding for real."""

    pairs = False

    def build(self, width):
        return LeakyLayer(width)


class LeakyLayer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.value = nn.Linear(width, width)

    def forward(self, x_BQD, mask=None, *, context_BSD=None, bias=None, real_BS=None, layout=None):
        sources_BSD = x_BQD if context_BSD is None else context_BSD
        return self.value(sources_BSD).mean(1, keepdim=True).expand_as(x_BQD)
'''
)
REMEMBERS = """
import torch
from torch import nn

from core.kinds import Position, PositionLayer
from core.params import params


@params
class Stretched(Position):
    \"\"\"Places as shares of the longest sample that it has ever met.\"\"\"

    def build(self, width, heads, head_width):
        return StretchedLayer()


class StretchedLayer(PositionLayer, nn.Module):
    longest = 0

    def tokens(self, x_BND, places):
        if places.longest_B is not None:
            self.longest = max(self.longest, int(places.longest_B.max()))
        place_N1 = torch.arange(places.count, device=x_BND.device)[:, None] / max(self.longest, 1)
        return x_BND + place_N1.to(x_BND.dtype)
"""
STARTS_ELSEWHERE = """
import torch
from torch import nn

from core.kinds import Residual
from core.params import knob, params


@params
class Late(Residual):
    \"\"\"A scale that says where it starts, and is set elsewhere by the trainer.\"\"\"

    initial: float = knob(0.0, "first value of the scale")

    def build(self, width):
        return LateLayer(width, self.initial)


class LateLayer(nn.Module):
    def __init__(self, width, initial):
        super().__init__()
        self.scale_D = nn.Parameter(torch.full((width,), initial))

    def reset_parameters(self):
        nn.init.ones_(self.scale_D)

    def forward(self, x_BTD, out_BTD):
        return x_BTD + (self.scale_D * out_BTD).to(out_BTD.dtype)
"""
HALF_DETACHED = """
import torch

from core.kinds.loss import ValueLoss
from core.params import params


@params
class Half(ValueLoss):
    \"\"\"The squared error with one of its two factors cut off from the gradient.\"\"\"

    def __call__(self, predicted, target, real_BN):
        error = torch.where(real_BN[..., None], predicted - target, 0.0)
        entries_B = real_BN.sum(1).clamp(min=1) * predicted.shape[-1]
        return {"half": ((error * error.detach()).flatten(1).sum(1) / entries_B).mean()}
"""
PLAIN = (
    HEAD
    + '''
@params
class Plain(FFN):
    """A linear map and a turn that is drawn once."""

    def build(self, width):
        return PlainLayer(width)

    def params(self, width):
        return width * width

    def flops(self, width, tokens):
        return 2 * tokens * width * width


class PlainLayer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.map = nn.Linear(width, width, bias=False)
        self.register_buffer("turn_D", torch.randn(width))

    def forward(self, x_BTD, real_BT=None):
        real_BT = torch.ones_like(x_BTD[..., 0], dtype=torch.bool) if real_BT is None else real_BT
        inside_BTD = torch.where(real_BT[..., None], x_BTD, 0.0)
        return (self.map(inside_BTD) * self.turn_D).to(x_BTD.dtype), Aux()
'''
)
WEIGHED = (
    HEAD
    + '''
@params
class Weighed(Attention):
    """One head without a mask over pairs."""

    pairs = False

    def build(self, width):
        return WeighedLayer(width)


class WeighedLayer(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.register_buffer("turn_D", torch.randn(width))

    def forward(self, x_BQD, mask=None, *, context_BSD=None, bias=None, real_BS=None, layout=None):
        sources_BSD = x_BQD if context_BSD is None else context_BSD
        real_BS = torch.ones_like(sources_BSD[..., 0], dtype=torch.bool) if real_BS is None else real_BS
        sources_BSD = torch.where(real_BS[..., None], sources_BSD, 0.0)
        x_BQD = sources_BSD if context_BSD is None else x_BQD
        logits_BQS = self.query(x_BQD) @ self.key(sources_BSD).mT
        weights_BQS = torch.softmax(logits_BQS.masked_fill(~real_BS[:, None], -1e30), -1) * real_BS[:, None]
        return (weights_BQS @ self.value(sources_BSD) * self.turn_D).to(x_BQD.dtype)
'''
)
ROW = '[{kind}.{name}]\ntarget = "{module}.pieces:{cls}"\nsummary = "A piece of a third party."\n'


@pytest.fixture
def bring(site: Path) -> Callable[..., None]:
    """Install a piece as `acme-NAME`."""

    def write(kind: str, name: str, cls: str, code: str, more: str = "") -> None:
        row = ROW.format(kind=kind, name=name, cls=cls, module=f"acme_{name}")
        package(site, f"acme-{name}", f"api = 1\n{row}{more}", modules={"pieces": code})
        installed.cache_clear()

    return write


def broken(out: str) -> set[str]:
    """The laws that were told as broken."""
    return {line.split()[1].rstrip(":") for line in out.splitlines() if line.startswith("BROKEN")}


def test_a_sound_piece_passes_by_bare_and_by_full_name(core: Callable, bring: Callable) -> None:
    """A line a law, each with what it states, and status 0."""
    bring("gate", "swing", "Swing", GATE)
    said = core("check", "gate", "swing", "--examples", "5")
    assert (said.code, said.err) == (0, "")
    assert f"$ core check gate swing\n{said.out}```\n" in DOCS
    assert len(GATE.splitlines()) < 30
    assert core("check", "gate", "acme-swing/swing", "--examples", "1", "-k", "BUILDS").out == (
        "ok       test_meta: A gate builds and runs without memory.\ngate acme-swing/swing: 1 law, all ok\n"
    )


@pytest.mark.parametrize(
    ("kind", "cls", "code", "laws"),
    [
        ("gate", "Swing", GATE.replace("0.5 + 0.5 *", "1.0 +"), {"test_scores"}),
        ("gate", "Swing", GATE.replace("self.score(x_BQD)", "self.score(x_BQD.mean(1, keepdim=True).expand_as(x_BQD))"),
         {"test_own_token"}),
        ("mask", "Stride", MASK, {"test_pairs"}),
        ("sparsifier", "Loose", SPARSIFIER, {"test_simplex"}),
        ("ffn", "Centred", NETWORK, {"test_padding", "test_own_token"}),
        ("attention", "Leaky", ATTENTION, {"test_padding_content", "test_padding_appended", "test_blind"}),
        ("position", "Stretched", REMEMBERS, {"test_memory"}),
        ("residual", "Late", STARTS_ELSEWHERE, {"test_start"}),
        ("loss", "Half", HALF_DETACHED, {"test_gradient"}),
        ("ffn", "Plain", PLAIN.replace("self.map(inside_BTD)", "self.map(inside_BTD.detach())"), {"test_gradients"}),
        ("ffn", "Plain", PLAIN.replace("torch.randn(width)", "torch.randn(width), persistent=False"), {"test_state"}),
        ("attention", "Weighed", WEIGHED.replace("torch.softmax(logits_BQS", "torch.softmax(logits_BQS.detach()"),
         {"test_gradients"}),
        ("attention", "Weighed", WEIGHED.replace("torch.randn(width)", "torch.randn(width), persistent=False"),
         {"test_state"}),
    ],
    ids=["scores above 1", "tokens mixed", "pairs miscounted", "no simplex", "padding counted", "padding read",
         "earlier calls remembered", "starts elsewhere", "half a gradient", "no gradient to tokens", "state forgotten",
         "no gradient to weights", "state of attention forgotten"],
)  # fmt: skip
def test_a_broken_piece_is_caught(
    core: Callable, bring: Callable, kind: str, cls: str, code: str, laws: set[str]
) -> None:
    """Status 1, and the law that it breaks is named."""
    bring(kind, "wrong", cls, code)
    said = core("check", kind, "wrong", "--examples", "8")
    assert said.code == 1
    assert laws <= broken(said.out)
    assert f", {len(broken(said.out))} broken\n" in said.out


@pytest.mark.parametrize(
    ("kind", "cls", "code"),
    [
        ("position", "Stretched", REMEMBERS.replace("max(self.longest, 1)", "7")),
        ("residual", "Late", STARTS_ELSEWHERE.replace("ones_(self.scale_D)", "zeros_(self.scale_D)").replace(
            ' = knob(0.0, "first value of the scale")', ' = knob(0.0, "first value", ge=0.0, le=0.0)')),
        ("loss", "Half", HALF_DETACHED.replace(".detach()", "")),
        ("ffn", "Plain", PLAIN),
        ("attention", "Weighed", WEIGHED),
    ],
    ids=["position", "residual", "loss", "ffn", "attention"],
)  # fmt: skip
def test_the_same_piece_mended_passes(core: Callable, bring: Callable, kind: str, cls: str, code: str) -> None:
    """No false alarm: it is the fault alone that is found."""
    bring(kind, "right", cls, code)
    said = core("check", kind, "right", "--examples", "8")
    assert (said.code, broken(said.out)) == (0, set()), said.out


def test_a_miscount_tells_both_numbers(core: Callable, bring: Callable) -> None:
    """What a piece says and what was counted stand in the message, and the line is the law's."""
    bring("mask", "wrong", "Stride", MASK)
    said = core("check", "mask", "wrong", "-k", "test_pairs", "--examples", "8")
    assert re.search(
        r"core/testing/mask.py:\d+: counted\(.*\n +AssertionError: `pairs` says \d+, and counted are \d+", said.out
    )


def test_a_gradient_that_is_missing_is_named(core: Callable, bring: Callable) -> None:
    """A parameter that learns nothing is told by its name."""
    bring("gate", "wrong", "Swing", GATE.replace("self.score(x_BQD))", "self.score(x_BQD).detach())"))
    said = core("check", "gate", "wrong", "-k", "test_gradients", "--examples", "2")
    assert "no gradient reaches score.weight, score.bias\n" in said.out


def test_a_broken_law_says_how_to_see_it_again(core: Callable, bring: Callable) -> None:
    """The example, where it failed, and a command that finds the same one; another call prints the same."""
    bring("gate", "swing", "Swing", GATE.replace("0.5 + 0.5 *", "0.5 *"))
    said = core("check", "gate", "swing", "-k", "test_scores")
    shown = re.search(r"```\n(BROKEN.*?)         \.\.\.\n(.*?)```", DOCS, re.DOTALL)
    assert all(re.sub(r"py:\d+", "py:", part) in re.sub(r"py:\d+", "py:", said.out) for part in shown.groups())
    (again,) = (line.strip() for line in said.out.splitlines() if line.strip().startswith("again: core "))
    assert core(*again.removeprefix("again: core ").split()) == said


def test_an_error_of_a_piece_names_its_line(core: Callable, bring: Callable) -> None:
    """What a piece raises is told with its own file and line, not with those of the machinery."""
    bring(
        "gate", "wrong", "Swing", GATE.replace("return (out_BHQV", "raise KeyError('lost')\n        return (out_BHQV")
    )
    said = core("check", "gate", "wrong", "-k", "memory", "--examples", "1")
    assert said.code == 1
    assert "acme_wrong/pieces.py:" in said.out
    assert "KeyError: 'lost'" in said.out


def test_what_is_refused_is_not_called_broken(core: Callable, bring: Callable) -> None:
    """A piece that may refuse, and does so whatever is drawn, has not obeyed its laws; it is told what it said."""
    bring("gate", "shy", "Swing", GATE.replace("return SwingLayer(", "raise ValueError('two is company') or ("))
    said = core("check", "gate", "shy", "--examples", "2", "-k", "test_state")
    assert said.code == 1
    assert said.out.startswith("REFUSED  test_state: ")
    assert "was refused, the last time so: two is company\n" in said.out
    assert said.out.endswith("1 law, 1 refused\n")


@pytest.mark.parametrize("name", ["softmax(heads=3)", "differential(heads=7)"])
def test_any_number_of_heads_finds_a_width(core: Callable, name: str) -> None:
    """Heads that a name fixes are no reason to refuse."""
    assert core("check", "attention", name, "--examples", "1", "-k", "test_shape_and_dtype").code == 0


def test_a_kind_is_checked_whole(core: Callable, bring: Callable, site: Path) -> None:
    """A line a piece; what does not load, manifests too, is told, counted, and hides nothing else."""
    bring("residual", "gone", "Swing", "import nothing_of_that_name\n")
    package(site, "acme-old", "api = 9\n")
    installed.cache_clear()
    said = core("check", "residual", "--examples", "1")
    assert (said.code, said.err) == (1, "")
    assert "ok       residual plain " in said.out
    assert "BROKEN   residual gone: residual 'gone' (from acme-gone 1.0) cannot be loaded: " in said.out
    assert "BROKEN   acme-old 1.0: its manifest says api = 9" in said.out
    assert said.out.endswith("4 pieces, 2 not sound\n")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "usage: core check KIND NAME"),
        (["gaet", "none"], "no kind is called 'gaet'. Did you mean 'gate'?"),
        (["gate", "nome"], "no gate is called 'nome'. Did you mean 'none'?"),
        (["gate", "none", "more"], "usage: core check KIND NAME"),
        (["gate", "none", "--all"], "--all checks every piece; leave out gate none"),
        (["gate", "none", "--examples", "0"], "--examples takes a whole number of at least 1, not '0'"),
        (["gate", "none", "--seed", "x"], "--seed takes a whole number of at least 0, not 'x'"),
        (["gate", "none", "--seeds", "1"], "`core check` has no flag --seeds. Did you mean '--seed'?"),
        (["gate", "none", "-k", "swims"], "no law of gate has 'swims' in its name or sentence"),
        (["gate", "none", "-k"], "-k needs a value"),
        (["ffn", "moe2x9"], "top_k must be between 1 and experts=2, got 9"),
        (["extractor", "scgpt"], "dir: a value is needed, which cannot be drawn; say extractor 'scgpt(dir=...)'"),
        (["data", "tissue"], "the laws of data need more than a name: subclass core.testing.data.DataLaws"),
    ],
    ids=" ".join,
)
def test_mistakes(core: Callable, words: list[str], text: str) -> None:
    """Status 2 and one sentence that says what to do."""
    said = core("check", *words)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("core: ")
    assert text in said.err


@pytest.mark.parametrize("absent", ["pytest", "hypothesis"])
def test_without_the_tools_it_says_how_to_get_them(
    core: Callable, monkeypatch: pytest.MonkeyPatch, absent: str
) -> None:
    """The laws need pytest and Hypothesis, which a user's installation has not."""
    monkeypatch.setitem(sys.modules, absent, None)
    said = core("check", "gate", "none")
    assert said.code == 2
    assert said.err == f"core: `core check` needs {absent}. Install with: pip install 'cellcore[dev]'\n"


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    """`core check --help` is read without torch and without pytest."""
    look = (
        "import sys; from core.cli import main; main(['check', '--help']); print({'torch', 'pytest'} & {*sys.modules})"
    )
    said = python("-c", look, cwd=tmp_path)
    assert said.stdout.startswith("usage: core check KIND NAME")
    assert said.stdout.endswith("set()\n")


def test_the_folder_counts_for_nothing(tmp_path: Path) -> None:
    """Neither a project's pytest files nor the environment disturb it, and it leaves no file behind."""
    (tmp_path / "conftest.py").write_text("raise RuntimeError\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-flag\n")
    kept = sorted(tmp_path.iterdir())
    said = command(
        "check", "time", "shared", "--examples", "1", cwd=tmp_path, env={"PYTEST_ADDOPTS": "-x --no-such-flag"}
    )
    assert (said.returncode, said.stderr) == (0, "")
    assert said.stdout.endswith("time shared: 5 laws, all ok\n")
    drawn = command("check", "sparsifier", "topk", "--examples", "1", "-k", "simplex", cwd=tmp_path)
    assert drawn.returncode == 0
    assert sorted(tmp_path.iterdir()) == kept


def test_what_was_set_before_is_set_again(core: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment, and the settings of the laws, are as they were."""
    from core.testing.gate import GateLaws

    monkeypatch.setenv("PYTEST_ADDOPTS", "--kept")
    former = GateLaws.test_scores._hypothesis_internal_use_settings
    before = dict(os.environ)
    assert core("check", "gate", "none", "--examples", "2", "--seed", "7").code == 0
    assert dict(os.environ) == before
    assert GateLaws.test_scores._hypothesis_internal_use_settings is former
    assert GateLaws.test_scores._hypothesis_internal_use_seed is None


def test_every_kind_has_laws_or_says_what_they_need() -> None:
    """No kind is forgotten, and none stands in both lists."""
    assert LAWS.keys() | MORE.keys() == set(KINDS)
    assert not LAWS.keys() & MORE.keys()
    assert all(laws.__name__.endswith("Laws") for laws in ONE_BY_ONE)


def test_a_piece_that_needs_a_file_is_left_out(core: Callable) -> None:
    """A kind is sound without the pieces that need a file; the last lines say how these are checked."""
    said = core("check", "extractor", "--examples", "1", "-k", "test_shape")
    assert said.code == 0, said.out
    assert "not checked: extractor scgpt; it needs a value: core check extractor 'scgpt(dir=...)'\n" in said.out
    assert said.out.endswith("pieces, all sound\n")


@pytest.mark.slow
def test_every_built_in_passes(core: Callable) -> None:
    """`core check --all` finds nothing to complain of."""
    said = core("check", "--all", "--examples", "1")
    assert (said.code, broken(said.out)) == (0, set()), said.out


EVERY = [(kind, row.name) for kind in sorted(LAWS) for row in installed().rows(kind)]
PIECES = [piece for piece in EVERY if not needed(*piece)]


@pytest.mark.parametrize(("kind", "name"), PIECES, ids=" ".join)
def test_every_piece_can_be_drawn(kind: str, name: str) -> None:
    """Several configurations where there is anything to choose; what the row presets is in all of them."""
    row = installed().find(kind, name).row
    found = samples(drawable(kind, name), 8)
    free = [field for field in fields(row.load()) if field.name not in row.preset]
    assert len(found) > 3 or len(free) < 2
    for plugin in found:
        for key, value in row.preset.items():
            inside = getattr(plugin, key)
            assert inside == value or type(inside) is installed().find(inside.KIND, value).row.load()


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_what_a_name_says_stays(data: st.DataObject) -> None:
    """Patterns, calls and what stands inside a slot."""
    moe = data.draw(configurations("ffn", "moe4x2"))
    assert (moe.experts, moe.top_k) == (4, 2)
    assert data.draw(configurations("mask", "window(w=3)")).w == 3
    assert data.draw(configurations("attention", "softmax(heads=2)")).heads == 2


def test_a_row_is_given_what_it_accepts(bring: Callable) -> None:
    """What `accepts` leaves out is never drawn, at any depth; without it everything is, sooner or later."""
    row = '[attention.bare]\ntarget = "plugins.attention.bidirectional:Bidirectional"\nsummary = "x"\n'
    bring("gate", "swing", "Swing", GATE, f'{row}accepts = {{ gate = ["none"] }}\n')
    found = {
        name: {type(plugin.inner.gate).__name__ for plugin in samples(configurations("attention", name), 60)}
        for name in ("bare", "bidirectional")
    }
    assert found["bare"] == {"NoGate"}
    assert len(found["bidirectional"]) > 2


def test_slots_are_filled_from_our_pieces_and_the_maker_s_own(bring: Callable) -> None:
    """What another third party installs decides nothing; a maker's own pieces are tried in its own slots."""
    fuse = '''
@params
class Twice(Gate):
    """A gate behind a gate."""

    inner: Gate = slot("none", "the first gate")

    def build(self, width, heads, head_width):
        return self.inner.build(width, heads, head_width)
'''
    own = ROW.format(kind="gate", name="twice", cls="Twice", module="acme_swing")
    bring("gate", "swing", "Swing", GATE.replace("knob, params", "knob, params, slot") + fuse, own)
    bring("gate", "other", "Swing", GATE)
    found = {plugin.inner.__class__.__module__ for plugin in samples(configurations("gate", "twice"), 60)}
    assert "acme_swing.pieces" in found
    assert "acme_other.pieces" not in found


def test_a_piece_that_nothing_can_be_drawn_of_says_why(bring: Callable) -> None:
    """A class that refuses its own defaults, and a text that must be given, are told in words."""
    refusing = GATE.replace(
        "    def build",
        '    def __attrs_post_init__(self):\n        raise ValueError("slope is never right")\n\n    def build',
        1,
    )
    bring("gate", "refusing", "Swing", refusing)
    with pytest.raises(UserError, match="slope is never right"):
        drawable("gate", "refusing")
    needy = GATE.replace("import knob", "import attrs, knob").replace(
        'slope: float = knob(1.0, "steepness", gt=0.0)', 'path: str = knob(attrs.NOTHING, "a file")'
    )
    bring("gate", "needy", "Swing", needy)
    with pytest.raises(UserError, match="path: a value is needed"):
        drawable("gate", "needy")


def test_samples_are_the_same_for_one_seed() -> None:
    """What a check draws can be drawn again."""
    found = [samples(configurations("gate", "tempered"), 5, start) for start in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    assert all(attrs.has(type(plugin)) for plugin in found[0])
