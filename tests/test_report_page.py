"""The report: figures from records that may lack anything, honest sentences, and a page that is safe and whole."""

import base64
import io
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from core.kinds.system import Score
from core.report.curves import expert_load, gate_histograms, learning_curves
from core.report.page import Figure, Page, Table, Text, best_values, number, render, score_tables, verdicts, write_page

EVIL = "<script>alert(1)</script> \"' onerror=alert(1) & </style></pre></title> <img src=x>"
SVG = '<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><text id="a">é</text></svg>'


def score(arm, metric, value, *, higher=True, task="left to right", units=3, label=""):
    by_unit = {f"unit {i}": value for i in range(units)}
    return Score(task=task, arm=arm, metric=metric, value=value, higher=higher, label=label or metric, units=by_unit)


def page(**changes):
    parts = {"title": "A run", "subtitle": "seed 0", "verdicts": ("The model is better.",)}
    return Page(**parts | changes)


class Reader(HTMLParser):
    """Collects tags, attributes and the text of a page, the style sheet left out."""

    def __init__(self):
        super().__init__()
        self.tags, self.attributes, self.text, self.inside = [], [], [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.inside = tag

    def handle_data(self, data):
        if self.inside != "style":
            self.text.append(data)


def read(text):
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


EVERYWHERE = page(
    title=EVIL,
    subtitle=EVIL,
    verdicts=(EVIL,),
    notes=(EVIL,),
    tables=(Table(title=EVIL, header=(EVIL, EVIL), rows=((EVIL, EVIL),), note=EVIL, bold=frozenset({(0, 1)})),),
    figures=(Figure(title=EVIL, caption=EVIL, svg=SVG),),
    texts=(Text(title=EVIL, text=EVIL),),
)


def test_no_text_can_run():
    """Markup in any text is shown as text: no tag and no attribute of the page comes from it."""
    reader = read(render(EVERYWHERE))
    table = Table(title="t", header=("a", "b"), rows=(("a", "b"),), note="n", bold=frozenset({(0, 1)}))
    figure, text = Figure(title="f", caption="c", svg=SVG), Text(title="t", text="t")
    calm = read(render(page(notes=("n",), tables=(table,), figures=(figure,), texts=(text,))))
    assert reader.tags == calm.tags
    assert "script" not in reader.tags
    assert [name for name, _ in reader.attributes] == [name for name, _ in calm.attributes]
    # title (also in the head), subtitle, verdict, note; of the table title, headers, cells, note; of the figure title,
    # caption; of the text title and text
    assert "".join(reader.text).count(EVIL) == 15


def test_pictures_are_images():
    """A picture is inlined as an image, byte for byte: its ids and scripts stay in a world of their own."""
    sources = [value for name, value in read(render(EVERYWHERE)).attributes if name == "src"]
    assert [base64.b64decode(s.removeprefix("data:image/svg+xml;base64,")).decode() for s in sources] == [SVG]


def test_no_network():
    """The page points nowhere but into itself, and forbids the browser to load or run anything."""
    text = render(EVERYWHERE)
    for name, value in read(text).attributes:
        if name in ("src", "href"):
            assert value.startswith(("data:", "#"))
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style
    assert "@import" not in style
    assert "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\"" in text


def test_links_have_targets():
    """Every link of the contents leads to a part that is there, and parts without content are left out."""
    for shown in (EVERYWHERE, page()):
        reader = read(render(shown))
        links = [value.removeprefix("#") for name, value in reader.attributes if name == "href"]
        assert links == [value for name, value in reader.attributes if name == "id"]
    assert links == ["in-short"]


def test_page_is_whole_or_old(tmp_path, monkeypatch):
    """A write that fails leaves the earlier page as it was and no other file."""
    path = tmp_path / "report.html"
    write_page(path, page(title="first"))
    first = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="space"):
        write_page(path, page(title="second"))
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]


def test_undecodable_names_are_shown(tmp_path):
    """Half a surrogate pair, as a file name that is no UTF-8 gives, does not stop the page."""
    write_page(tmp_path / "report.html", page(texts=(Text(title="files", text="caf\udce9.h5ad"),)))
    assert "caf\\udce9.h5ad" in (tmp_path / "report.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("cells", "right"),
    [
        (("0.812", "-1,234.5", "–"), True),
        (("1.0e-05", "12 %", "0.81 ±0.02"), True),
        (("0.812", "none"), False),
        (("2024-01-02",), False),
    ],
)
def test_numbers_are_flush_right(cells, right):
    """A column is set flush right, heading included, when all its cells are numbers or dashes."""
    rows = tuple(("row", cell) for cell in cells)
    text = render(page(tables=(Table(title="t", header=("", "x"), rows=rows),)))
    assert text.count('class="number"') == (len(cells) + 1 if right else 0)


SCORES = [
    score("nearest cell", "fit", 0.812),
    score("ceiling", "fit", 0.95),
    score("model", "fit", 0.774),
    score("model, one sample", "fit", 0.7),
    score("random", "fit", 0.1),
    score("nearest cell", "error", 0.5, higher=False),
    score("ceiling", "error", 0.1, higher=False),
    score("model", "error", 0.4, higher=False),
    score("random", "error", 0.9, higher=False),
]


def test_table_order_and_emphasis():
    """The model's arms come first and the ceiling last; the best value that is no ceiling's is bold, either way up."""
    (table,) = score_tables(SCORES)
    assert table.title == "Left to right"
    assert table.header == ("", "fit\u00a0↑", "error\u00a0↓")
    assert [row[0] for row in table.rows] == ["model", "model, one sample", "nearest cell", "random", "ceiling"]
    assert table.rows[1] == ("model, one sample", "0.700", "–")
    assert table.bold == {(2, 1), (0, 2)}
    assert (table.own, table.apart) == ({0, 1}, {4})
    assert "3 test units" in table.note


def test_a_table_each_task():
    """Tasks keep their order, and each has a table of its own arms and metrics."""
    first, second = score_tables([*SCORES, score("model", "other", 1.0, task="right to left")])
    assert first == score_tables(SCORES)[0]
    assert second.rows == (("model", "1.000"),)


def test_values_without_number():
    """Where no arm has a number a column has no best, and dashes are not bold."""
    (table,) = score_tables([score("model", "fit", float("nan")), score("random", "fit", float("inf"))])
    assert [row[1] for row in table.rows] == ["–", "–"]
    assert not table.bold
    assert best_values([score("model", "fit", float("nan"))]) == {}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.8124, "0.812"),
        (0.0, "0.000"),
        (-1.5, "-1.500"),
        (3.2e-5, "3.2e-05"),
        (12345.6, "12,346"),
        (float("nan"), "–"),
    ],
)
def test_number(value, text):
    """Three decimals where they show something, else at least two digits."""
    assert number(value) == text


def test_verdict():
    """A verdict names whom the model beats, on how many metrics, and with both numbers who is better at what."""
    assert verdicts(SCORES) == (
        "On 'left to right' the model beats nearest cell on 1 of 2 metrics and random on 2 of 2 metrics; nearest cell "
        "is better on fit (0.812 against 0.774). The ceiling is 0.950 on fit, the model 0.774.",
    )


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        ([score("random", "fit", 1.0)], "On 'left to right' the model has no score."),
        (
            [score("model", "fit", 0.5), score("model", "r", 0.25, label="rank correlation (median cell)")],
            "On 'left to right' the model reaches 0.500 on fit and 0.250 on rank correlation, with no baseline to "
            "compare it with.",
        ),
        (
            [score("model", "fit", 0.50001), score("random", "fit", 0.5)],
            "On 'left to right' the model beats no baseline on any metric; random is as good on 1 of 1 metric.",
        ),
        (
            [score("model", "fit", float("nan")), score("random", "fit", 0.5)],
            "On 'left to right' the model beats no baseline on any metric; random is better on fit (0.500 against –).",
        ),
        (
            [score(a, "fit", v) for a, v in {"model": 0.9, "mean": 0.1, "random": 0.1, "ceiling": 0.8}.items()],
            "On 'left to right' the model beats mean and random on 1 of 1 metric. It also passes the ceiling on fit "
            "(0.900 against 0.800): possible where the ceiling is made for another score; else look for a leak.",
        ),
        (
            [score("model", "fit", 0.9, units=1), score("random", "fit", 0.1, units=1)],
            "On 'left to right' the model beats random on 1 of 1 metric. All this is from one test unit, so small "
            "differences may be chance.",
        ),
    ],
    ids=["no model", "no baseline", "tie", "model failed", "above the ceiling", "one unit"],
)  # fmt: skip
def test_verdict_says_what_is_so(scores, said):
    """Missing arms, ties, failures, a beaten ceiling and a single test unit are each said in words."""
    assert verdicts(scores) == (said,)


VALUES = st.one_of(st.floats(-2, 2), st.sampled_from([0.5, 0.50001, float("nan")]))


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(VALUES, VALUES, st.booleans()), min_size=1, max_size=4))
def test_verdict_counts(values):
    """Whatever the scores, wins and losses that are told are those that the table shows."""
    scores = [
        score(arm, f"m{i}", value, higher=higher)
        for i, (model, rival, higher) in enumerate(values)
        for arm, value in (("model", model), ("rival", rival))
    ]
    (text,), (table,) = verdicts(scores), score_tables(scores)
    won = re.search(r"beats rival on (\d+)", text)
    many = re.search(r"rival is better on (\d+) of", text)
    told = (int(won[1]) if won else 0, int(many[1]) if many else text.count(" against "))
    shown = [0, 0]
    for j, column in enumerate(table.header[1:], 1):
        model, rival = (float(row[j].replace("–", "nan")) for row in table.rows)
        sign = 1 if column.endswith("↑") else -1
        shown[0] += sign * model > sign * rival or (model == model and rival != rival)
        shown[1] += sign * model < sign * rival or (rival == rival and model != model)
    assert told == tuple(shown)


def records(steps=60, layers=2, experts=3):
    lines = []
    for step in range(1, steps + 1):
        line = {"step": step, "train/loss": 1 / step, "train/loss/a": 0.5 / step, "lr": 1e-3, "grad_norm": 2.0}
        for layer in range(layers):
            line[f"train/loss/balance/{layer}"] = 0.01
            line |= {f"stat/layer {layer}/load/{i}": 1 / experts for i in range(experts)}
        lines.append(line)
    lines[-1] |= {"valid/loss": 0.2, "valid/loss/a": 0.1}
    return lines


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def svg(figure):
    sink = io.StringIO()
    figure.savefig(sink, format="svg")
    return sink.getvalue()


def assert_labelled(figure):
    """Every panel has a title and names what both its axes show."""
    for axes in figure.axes:
        assert axes.get_title(loc="left")
        assert axes.get_xlabel()
        assert axes.get_ylabel()
    assert svg(figure).startswith("<?xml")


def test_learning_curves():
    """Total loss comes first, then each term, terms of several layers in one panel, then rate and gradient norm."""
    figure = learning_curves(records())
    assert titles(figure) == [
        "Loss (lowest validation 0.2 at step 60)", "Loss term: a", "Loss terms: balance", "Learning rate",
        "Gradient norm, before clipping",
    ]  # fmt: skip
    assert_labelled(figure)


def test_learning_curves_show_what_was_logged():
    """The thin line passes through every logged value, and the running mean of a constant is that constant."""
    lines = [{"step": i, "train/loss": 2.0 + (i == 7), "train/loss/a": 3.0} for i in range(40)]
    total, term = learning_curves(lines).axes
    assert total.lines[0].get_ydata().tolist() == [line["train/loss"] for line in lines]
    np.testing.assert_allclose(term.lines[1].get_ydata(), 3.0)


def test_long_curves_keep_their_extremes():
    """A curve of many lines is drawn with far fewer points, its highest and lowest among them."""
    values = np.random.default_rng(0).normal(size=50000)
    values[12345], values[40001] = 99.0, -99.0
    figure = learning_curves([{"step": i, "train/loss": v} for i, v in enumerate(values.tolist())])
    drawn = figure.axes[0].lines[0].get_ydata()
    assert len(drawn) < 1000
    assert (drawn.max(), drawn.min()) == (99.0, -99.0)


def test_expert_load():
    """Each layer has a panel with a curve an expert and a dashed line at the even share."""
    figure = expert_load([*records(layers=3), {"step": 61, "stat/layer 10/load/0": 0.5, "stat/layer 10/load/1": 0.5}])
    assert titles(figure) == ["layer 0", "layer 1", "layer 2", "layer 10"]
    for axes, experts in zip(figure.axes, (3, 3, 3, 2), strict=True):
        *curves, even = axes.lines
        assert len(curves) == experts
        assert set(even.get_ydata()) == {1 / experts}
        assert even.get_linestyle() != "-"
    assert_labelled(figure)


def test_many_experts():
    """Thirty experts are all drawn, with a legend that names the first and the last alone."""
    figure = expert_load(records(layers=1, experts=30))
    assert len(figure.axes[0].lines) == 31
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "expert 0", "expert 29", "even share, 1 / experts",
    ]  # fmt: skip


def gate(counts=(1, 3, 0, 4), mean=0.6):
    edges = np.linspace(0, 1, len(counts) + 1).tolist()
    return {"mean": mean, "std": 0.2, "saturated": 0.125, "counts": list(counts), "edges": edges, "shape": [1, 8]}


def test_gate_histograms():
    """Bars are shares that add up to one, the mean is marked, and saturation and both ends are put in words."""
    figure = gate_histograms({"layers.10.gate": gate(mean=0.1), "layers.2.gate": gate(), "empty": gate(counts=(0, 0))})
    assert titles(figure) == ["layers.2.gate\n12% saturated", "layers.10.gate\n12% saturated"]
    for axes, mean in zip(figure.axes, (0.6, 0.1), strict=True):
        assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(1)
        assert set(axes.lines[0].get_xdata()) == {mean}
        assert [text.get_text() for text in axes.texts] == [f"mean {mean:.2f}"]
    assert "0 = closed" in figure.get_supxlabel()
    assert "1 = open" in figure.get_supxlabel()
    assert_labelled(figure)


def test_long_names_fit():
    """A module's long name is broken before dots, nothing lost."""
    name = ".".join(["network", "backbone", "transformer", "layers", "11", "attention", "gate"])
    lines = titles(gate_histograms({name: gate(), name.replace("11", "12"): gate()}))[0].split("\n")
    assert "".join(lines[:-1]) == name
    assert max(map(len, lines)) <= 34


@pytest.mark.parametrize(
    "nothing", [[], [{"step": 1}], [{"step": 1, "seconds": 2.0, "train/loss": float("nan")}]], ids=str
)
def test_nothing_to_show(nothing):
    """Without anything to show there is no figure."""
    assert learning_curves(nothing) is None
    assert expert_load(nothing) is None
    assert gate_histograms({}) is None


KEYS = st.sampled_from(
    ["train/loss", "valid/loss", "train/loss/a", "valid/loss/b/0", "train/loss/b/1", "train/loss/0", "lr", "grad_norm",
     "seconds", "stat/layer 0/load/0", "stat/layer 0/load/1", "stat/layer 0/entropy", "stat/x/y/load/2"]
)  # fmt: skip
NUMBERS = st.one_of(st.floats(-1e6, 1e6), st.sampled_from([0.0, 1e-30, float("nan"), float("inf")]))


@settings(deadline=None, max_examples=15)
@given(st.lists(st.dictionaries(KEYS, NUMBERS, max_size=6), max_size=6), st.integers(0, 10**6))
@example([{"train/loss": 0.0}], 0)
def test_any_key_may_be_missing(lines, first):
    """Whatever keys and values the lines have, figures are drawn without a warning, or there is none."""
    lines = [line | {"step": first + i // 2} for i, line in enumerate(lines)]
    for draw in (learning_curves, expert_load):
        figure = draw(lines)
        if figure is not None:
            assert_labelled(figure)


def test_no_pyplot():
    """Drawing never touches pyplot, whose global state would leak from one figure into another."""
    code = "import sys, core.report.curves; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
