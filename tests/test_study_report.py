"""The report of a study: nothing lost, nothing that runs, the same numbers in every form."""

import csv
import html
import io
import itertools
import json
import math
import re
import subprocess
import sys
import unicodedata
from html.parser import HTMLParser

import anndata
import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import findings as made
from core.errors import UserError
from core.study.report import FORMATS, latex, markdown, page, sentences, show, write
from core.study.report.blocks import Boxes, Picture, Say, Table
from core.study.report.contents import document
from core.study.report.costs import front
from core.study.report.svg import scale, tick_text
from core.study.report.words import clean, interval, number
from core.study.stats import Estimate

few = settings(max_examples=20, deadline=None)

SHAPES = ((0.6, 0.05), (-3.0, 1.0), (0.0, 0.0), (5e6, 10.0), (1e-7, 1e-8), (0.5, 0.0))
"""middle and spread of scores"""


@st.composite
def studies(draw):
    """Findings of any shape: no results, one seed, lost trials, stopped arms, two systems, blocks, hostile names."""
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    names = draw(st.permutations(made.NAMES))
    axes = (names[0], names[1])[: draw(st.integers(1, 2))]
    levels = (names[2:5], names[5:7])
    cells = [(a,) for a in levels[0]] if len(axes) == 1 else [(a, b) for a in levels[0] for b in levels[1]]
    seeds = range(draw(st.integers(1, 6)))
    blocks = draw(st.sampled_from([("",), (names[7], names[8])]))
    size = len(seeds) * len(blocks)
    systems = []
    for i in range(draw(st.integers(1, 2))):
        middle, spread = draw(st.sampled_from(SHAPES))
        scores = middle + spread * generator.normal(size=(len(cells), size))
        lost = draw(st.sampled_from([0.0, 0.2, 1.0]))
        states = {
            (k, j): draw(st.sampled_from(made.STATES))
            for k in range(len(cells)) for j in range(size) if generator.random() < lost
        }  # fmt: skip
        systems.append(
            made.make_system(
                name=f"{names[9]} {i}", axes=axes, cells=cells, scores=scores, seeds=seeds, blocks=blocks,
                states=states, stopped={len(cells) - 1} if draw(st.booleans()) else (), larger=draw(st.booleans()),
                label=names[10], metric=f"task/{names[11]}", messages=names[12], with_units=draw(st.booleans()),
                references={names[13]: middle}, aliases=draw(st.sampled_from([(), ("A:B = C:D",)])),
            )
        )  # fmt: skip
    kinds = draw(st.lists(st.sampled_from(["n/a", "excluded"]), max_size=2))
    return made.make_findings(
        systems, axes={a: tuple(levels[k]) for k, a in enumerate(axes)}, seeds=seeds, blocks=blocks, title=names[14],
        idle=[(names[15], kind, names[16]) for kind in kinds],
        warnings=[names[17]], deviations=[made.Deviation(kind="code", text=names[18])],
        settings=((names[19], names[20], names[21]),),
        fixed=draw(st.sampled_from([(), ((names[3], names[4], "", names[6]), tuple(names[5:9]))])),
    )  # fmt: skip


class Reader(HTMLParser):
    """Tags, attributes, the text outside style and script, the script, and every table as rows of texts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.scripts, self.tables = [], [], [], [], []
        self.inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag in ("style", "script"):
            self.inside = tag
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
            self.inside = "cell"

    def handle_endtag(self, tag):
        if tag in ("style", "script", "td", "th"):
            self.inside = ""

    def handle_data(self, data):
        if self.inside == "cell":
            self.tables[-1][-1][-1] += data
        if self.inside == "script":
            self.scripts.append(data)
        elif self.inside != "style":
            self.text.append(data)


def cells_of(table):
    return [list(table.header)] + [[cell.text for cell in row] for row in table.rows]


def tables_of(findings):
    return [b for s in document(findings).sections for b in s.blocks if isinstance(b, Table)]


@few
@given(studies())
def test_accounting_adds_up_or_no_report(findings):
    """The table of states sums to the planned trials; counts that do not, or differ from the arms, are refused."""
    table = next(t for t in tables_of(findings) if t.title == "Where every planned trial is")
    *parts, total = [row[1].sort for row in table.rows]
    assert sum(parts) == total == sum(len(a.outcomes) for s in findings.systems for a in s.arms)
    for key in findings.counts:
        wrong = attrs.evolve(findings, counts=findings.counts | {key: findings.counts[key] + 1})
        with pytest.raises(ValueError, match="accounting"):
            document(wrong)
    done = findings.counts.get("done", 0)
    if done:
        moved = findings.counts | {"done": done - 1, "exhausted": findings.counts.get("exhausted", 0) + 1}
        with pytest.raises(ValueError, match="accounting says"):
            document(attrs.evolve(findings, counts=moved))


def test_nothing_is_written_without_an_accounting(tmp_path):
    """A study that loses a trial gets no file at all, and no table on the terminal."""
    findings = made.gated_study()
    lost = attrs.evolve(findings, counts=findings.counts | {"planned": 49})
    with pytest.raises(ValueError, match="does not add up: 49 trials were planned"):
        write(lost, tmp_path / "report")
    assert not (tmp_path / "report").exists()
    with pytest.raises(ValueError, match="does not add up"):
        show(lost)
    with pytest.raises(ValueError, match="not complete while 1"):
        document(attrs.evolve(findings, complete=True))


def backwards(value):
    """The same value, every mapping in it in the opposite order."""
    if attrs.has(type(value)):
        fields = [f.name for f in attrs.fields(type(value))]
        return attrs.evolve(value, **{name: backwards(getattr(value, name)) for name in fields})
    if isinstance(value, dict):
        return {key: backwards(value[key]) for key in reversed(value)}
    return tuple(map(backwards, value)) if isinstance(value, tuple) else value


def test_equal_findings_give_equal_bytes(tmp_path):
    """Twice the same, and mappings in another order: every file is equal to the byte, AnnData too."""
    findings = made.make_findings(
        [made.gated(5, stopped=(), lost=False), made.gated(5, system="perturb", larger=False)],
        axes={"attention": ("softmax", "linear", "gated_headwise", "gated_elementwise"), "ffn": ("dense", "moe4x2")},
        seeds=range(5),
    )
    turned = backwards(findings)
    assert turned == findings
    files = [write(f, tmp_path / str(i), [*FORMATS, "h5ad"]) for i, f in enumerate((findings, findings, turned))]
    assert [p.name for p in files[0]] == [
        "report.html", "report.md", "report.tex", "trials.csv", "report.json", "trials.h5ad",
    ]  # fmt: skip
    for same in zip(*files, strict=True):
        assert len({path.read_bytes() for path in same}) == 1
    assert not list(tmp_path.rglob("*.tmp"))


@few
@given(studies())
def test_order_of_mappings_and_repetition_change_nothing(findings):
    """Page, Markdown, LaTeX, CSV and JSON depend on what the findings are, not on how they were put together."""
    turned = backwards(findings)
    assert turned == findings
    for name in ("html", "md", "tex", "csv", "json"):
        assert text_of(findings, name) == text_of(turned, name)


def text_of(findings, name):
    from core.study.report.write import FILES

    return FILES[name][1](findings)


def test_every_arm_is_in_every_format(tmp_path, capsys):
    """Label by label, stopped arms and arms without results included, as each format writes it."""

    @few
    @given(studies())
    def law(findings):
        labels = [a.label for s in findings.systems for a in s.arms]
        texts = {name: text_of(findings, name) for name in ("html", "md", "tex", "csv", "json")}
        cells = "\n".join(c for t in Reader(texts["html"]).tables for row in t for c in row)
        rows = list(csv.DictReader(io.StringIO(texts["csv"])))
        parsed = json.loads(texts["json"])
        for label in labels:
            assert clean(label) in cells
            assert markdown.say(clean(label)) in texts["md"]
            assert latex.say(clean(label)) in texts["tex"]
            assert clean(label) in {row["arm"].removeprefix("'") for row in rows}
        assert [a["label"] for s in parsed["systems"] for a in s["arms"]] == labels

    law()
    findings = made.gated_study()
    write(findings, tmp_path, ("h5ad",))
    assert set(anndata.read_h5ad(tmp_path / "trials.h5ad").obs["arm"]) == {a.label for a in findings.systems[0].arms}
    show(findings)
    printed = capsys.readouterr().out
    assert printed.count("gated_headwise") >= 2
    assert "48 planned trials = 33 done + 8 cached + 1 exhausted + 6 stopped" in printed
    assert "■ stopped" in printed


TAGS = {
    "html", "head", "meta", "title", "style", "body", "main", "section", "h1", "h2", "h3", "p", "div", "span", "strong",
    "b", "nav", "a", "ul", "ol", "li", "table", "thead", "tbody", "tr", "th", "td", "wbr", "figure", "figcaption",
    "details", "summary", "dl", "dt", "dd", "code", "script", "svg", "desc", "line", "rect", "circle", "polyline",
    "polygon", "text",
}  # fmt: skip


@few
@given(studies())
def test_no_text_can_run(findings):
    """No tag, no attribute and no script of the page comes from data, and the page asks for nothing from outside."""
    text = page.render(document(findings))
    reader = Reader(text)
    assert set(reader.tags) <= TAGS
    assert reader.tags.count("script") == 1
    assert "".join(reader.scripts) == page.asset("page.js")
    for tag, name, value in reader.attributes:
        assert not name.startswith("on")
        assert name not in ("src", "style", "srcset", "action")
        assert name != "href" or re.fullmatch("#[a-z-]+", value)
        assert tag != "meta" or name != "content" or "unsafe" not in value
        assert (
            name in ("aria-label", "data-label", "content", "viewbox", "points", "class", "id", "aria-labelledby")
            or len(value) < 40
        )
    ids = [value for _, name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    for shown in (text, "".join(reader.text), markdown.render(document(findings)), latex.render(document(findings))):
        assert not [c for c in shown if unicodedata.category(c) in ("Cf", "Cc", "Cs") and c != "\n" and c != "\t"]


def test_policy_allows_this_script_and_this_style_alone():
    """The hashes in the policy are those of the page's own script and style as a browser reads them."""
    import base64
    import hashlib

    text = page.render(document(made.gated_study()))
    policy = re.search('Content-Security-Policy" content="([^"]+)"', text)[1]
    for tag in ("style", "script"):
        inside = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "http" not in text.replace("http-equiv", "")


@few
@given(studies())
def test_tables_agree_in_all_forms(findings):
    """Every cell of every table reads the same on the page, in Markdown and in LaTeX."""
    doc = document(findings)
    tables = tables_of(findings)
    expected = [cells_of(t) for t in tables]
    assert Reader(page.render(doc)).tables == expected
    text = re.sub(r"<details>.*?</details>", "", markdown.render(doc), flags=re.DOTALL)
    unescape = re.compile(r"\\(.)")
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        rows = [re.split(r" \| ", line[2:-2]) for line in block.splitlines()]
        plain = [[html.unescape(unescape.sub(r"\1", c)) for c in row] for row in rows[:1] + rows[2:]]
        found.append(plain)
    bold = [[[f"**{c.text}**" if c.strong else c.text for c in row] for row in t.rows] for t in tables]
    assert found == [[list(t.header), *rows] for t, rows in zip(tables, bold, strict=True)]
    tex = latex.render(doc)
    for table in expected:
        for row in table:
            assert all(latex.say(cell) in tex for cell in row)


@few
@given(studies())
def test_latex_is_balanced(findings):
    """Environments and braces close, rows have as many columns as declared, and no special letter is bare."""
    doc = document(findings)
    tex = latex.render(doc)
    body = [line for line in tex.splitlines() if not line.startswith("%")]
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", "\n".join(body)):
        assert kind == "begin" or stack.pop() == name
        if kind == "begin":
            stack.append(name)
    assert not stack
    plain = re.sub(r"\\[{}$&#_%\\]|\$\^2\$", "", "\n".join(body))
    assert plain.count("{") == plain.count("}")
    assert not re.search(r"[#^\"<>|]|(?<!\\)%|(?<!\\)_", plain)
    assert plain.count("$") % 2 == 0
    for spec, inside in re.findall(r"\\begin\{tabular\}\{([^\n]*)\}\n\\toprule\n(.*?)\\bottomrule", plain, re.DOTALL):
        columns = len(re.sub(r"\{[^}]*\}", "", spec))
        rows = [line for line in inside.splitlines() if line.startswith("{}")]
        assert rows
        assert all(line.count(" & ") == columns - 1 for line in rows)


def test_csv_json_and_anndata_hold_the_same_numbers(tmp_path):
    """Scores and states of every trial, in full, in the three forms that programs read."""
    findings = made.gated_study()
    write(findings, tmp_path, ("csv", "json", "h5ad"))
    rows = list(csv.DictReader(io.StringIO((tmp_path / "trials.csv").read_text())))
    parsed = json.loads((tmp_path / "report.json").read_text())
    data = anndata.read_h5ad(tmp_path / "trials.h5ad")
    outcomes = [o for s in parsed["systems"] for a in s["arms"] for o in a["outcomes"]]
    metric = findings.systems[0].metric
    assert list(data.var_names) == [metric, "expression to position/r2"]
    assert list(data.var["primary"]) == [True, False]
    assert len(rows) == len(outcomes) == data.n_obs == findings.counts["planned"]
    for row, o, x_M, obs in zip(rows, outcomes, data.X, data.obs.itertuples(), strict=True):
        assert row["trial"] == o["trial"]
        assert row["state"] == o["state"] == obs.state
        assert (float(row[metric]) if row[metric] else None) == o["value"]
        assert o["value"] == (None if math.isnan(x_M[0]) else x_M[0])
        assert int(row["seed"]) == o["seed"] == obs.seed
    assert data.uns["plan"] == findings.plan
    assert json.loads(data.uns["settings"]) == [list(s) for s in findings.settings]
    assert data.obs["parameters"].iloc[0] == 1_204_224
    assert parsed["systems"][0]["arms"][2]["verdict"]["p_adjusted"] == findings.systems[0].arms[2].verdict.p_adjusted


def test_a_spreadsheet_reads_no_formula():
    """A text that begins like a formula gets an apostrophe; numbers below zero stay numbers."""
    cells = [("=1+1",), ("+a",), ("-b",), ("@c",)]
    system = made.make_system(name="s", axes=("=axis",), cells=cells, scores=-np.ones((4, 3)), seeds=range(3))
    findings = made.make_findings([system], axes={"=axis": ("=1+1", "+a", "-b", "@c")}, seeds=range(3), title="=t")
    for row in csv.reader(io.StringIO(text_of(findings, "csv"))):
        for cell in row:
            assert cell[:1] not in ("=", "+", "@")
            assert cell[:1] != "-" or float(cell) == -1.0 or float(cell) == -0.5


def test_an_unknown_format_is_named(tmp_path):
    """The message says what was given, what was meant, and what there is."""
    with pytest.raises(UserError, match=r"'htm' is no format of a report. Did you mean 'html'\? There are: html, md"):
        write(made.gated_study(), tmp_path, ("md", "htm"))
    assert not list(tmp_path.iterdir())


@few
@given(studies())
def test_the_answer_is_the_same_everywhere(findings):
    """The sentences stand word for word on the page, in Markdown and in LaTeX; an unfinished study says so on top."""
    doc = document(findings)
    said = [s for s in sentences(findings) if not s.startswith("This study is not finished")]
    assert tuple(said) == doc.answer
    assert said
    text, md, tex = "".join(Reader(page.render(doc)).text), markdown.render(doc), latex.render(doc)
    for sentence in said:
        assert sentence in text
        assert markdown.say(sentence) in md
        assert latex.say(sentence) in tex
    for shown in (text, md, tex):
        assert ("INCOMPLETE" in shown) == (not findings.complete)
    assert sentences(findings)[0].startswith("This study is not finished") == (not findings.complete)


@few
@given(studies())
def test_no_verdict_without_a_test(findings):
    """Below 3 shared seeds nothing is called better, worse or equivalent, and no p is given."""
    for s in findings.systems:
        boxes = next((b for p in document(findings).sections for b in p.blocks
                      if isinstance(b, Boxes) and b.title.startswith(clean(s.system))), None)  # fmt: skip
        tested = {a.label for a in s.arms if a.contrast is not None and a.contrast.n >= 3}
        assert boxes is not None
        assert len(boxes.boxes) == len(s.arms) - 1
        certain = [b for b in boxes.boxes if b.word in ("better", "worse", "equivalent", "inconclusive")]
        assert len(certain) == len(tested)
        assert [b for b in boxes.boxes if b.word == "stopped"] or not any(a.stopped for a in s.arms)
    if len(findings.seeds) * len(findings.blocks) < 3:
        assert "nothing is tested" in page.render(document(findings)) or "No trial has given" in page.render(
            document(findings)
        )


def test_sentences_say_what_was_found():
    """Better and worse with their size, equivalence with its margin, inconclusive with what would have been found."""
    first, answer = (text.replace("\N{NO-BREAK SPACE}", " ") for text in sentences(made.gated_study()))
    assert first == "This study is not finished: 1 exhausted of 48 planned trials."
    assert answer.startswith(
        "On spatial, judged by distance Spearman (higher is better), against the baseline softmax + dense: "
    )
    parts = answer.split(": ", 1)[1].split("; ")
    assert re.match(r"gated_headwise is better by 3\.\d+ % \[\d", parts[0])
    assert any(re.match(r"linear is worse by 7\.\d % \[\d", p) for p in parts)
    assert any(p.startswith("moe4x2 is equivalent within 2 % (") for p in parts)
    assert any(
        re.search(r"is inconclusive \(.*\): 6 seeds find differences of [\d.]+ % of the baseline's mean or more", p)
        for p in parts
    )
    assert parts[-1] == "gated_elementwise was stopped: behind by 2.1 standard errors at step 500."


def test_boxes_carry_what_the_verdict_rests_on():
    """Each word with its adjusted p; inconclusive with the smallest detectable effect; stopped with the reason."""
    boxes = next(b for s in document(made.gated_study()).sections for b in s.blocks if isinstance(b, Boxes)).boxes
    assert [b.word for b in boxes] == ["better", "better", "worse", "worse", "equivalent", "inconclusive", "stopped"]
    for box in boxes[:5]:
        assert re.search(r"p = [\d.e-]+ after Holm's correction", box.why)
        assert re.search(r"[56] seeds", box.facts)
    assert re.fullmatch(r"smallest detectable difference: [\d.]+\s% of the baseline's mean", boxes[5].why)
    assert re.search(r"6 seeds; p = [\d.]+ after Holm's correction for 7 contrasts", boxes[5].facts)
    assert "2.1 standard errors" in boxes[6].why


def test_lower_is_better_turns_the_words_not_the_numbers():
    """For an error, an arm with smaller scores is better; the table still shows arm minus baseline."""
    findings = made.make_findings(
        [made.gated(6, larger=False, stopped=(), lost=False)],
        axes={"attention": ("softmax", "linear", "gated_headwise", "gated_elementwise"), "ffn": ("dense", "moe4x2")},
        seeds=range(6),
    )
    assert "linear is better by 7" in sentences(findings)[0]
    table = next(t for t in tables_of(findings) if t.title == "spatial: distance Spearman")
    row = next(r for r in table.rows if r[0].text == "attention=linear ffn=dense")
    assert row[4].text.startswith("−0.04")
    assert row[1].text == "better"


def test_figures_cut_nothing_off():
    """With 3 seeds intervals reach far beyond the dots; both ends of each lie inside the panel and in proportion."""
    cells = [(name,) for name in "abcd"]
    scores = np.random.default_rng(5).normal(0.5, 0.05, (4, 3))
    system = made.make_system(name="s", axes=("axis",), cells=cells, scores=scores, seeds=range(3))
    findings = made.make_findings([system], axes={"axis": tuple("abcd")}, seeds=range(3))
    drawn = {b.title: b.panels[0] for s in document(findings).sections for b in s.blocks if isinstance(b, Picture)}
    ranges = {
        "Every seed": [a.mean for a in system.arms],
        "Differences to the baseline": [a.contrast.relative for a in system.arms[1:]],
    }
    for title, estimates in ranges.items():
        lines = re.findall(r'<line x1="([\d.]+)" y1="[\d.]+" x2="([\d.]+)" y2="[\d.]+" class="range', drawn[title])
        places = np.array(lines, float).ravel()
        values = np.array([(e.low, e.high) for e in estimates]).ravel()
        slope, offset = np.polyfit(values, places, 1)
        assert places == pytest.approx(slope * values + offset, abs=0.1)
        assert 132 < places.min() < places.max() < 342


def captions_of(findings):
    return {b.title: b.caption for s in document(findings).sections for b in s.blocks if isinstance(b, Picture)}


@pytest.mark.parametrize(("seeds", "alike"), [(1, False), (2, False), (3, True), (6, False)])
def test_captions_promise_what_is_drawn(seeds, alike):
    """Intervals, bands, lines and a front are spoken of where there are marks of them, and nowhere else."""
    scores = np.arange(4)[:, None] / 50 + (0 if alike else np.random.default_rng(2).normal(0.5, 0.01, (4, seeds)))
    cells = list(itertools.product("ab", "cd"))
    system = made.make_system(name="s", axes=("one", "two"), cells=cells, scores=np.broadcast_to(scores, (4, seeds)),
                              seeds=range(seeds))  # fmt: skip
    findings = made.make_findings([system], axes={"one": tuple("ab"), "two": tuple("cd")}, seeds=range(seeds))
    pictures = [b for s in document(findings).sections for b in s.blocks if isinstance(b, Picture)]
    drawn = {b.title: "".join(b.panels) for b in pictures}
    titles = ["Every seed", "Differences to the baseline", "Interactions", "Quality and cost"]
    for title in titles:
        caption, marks = captions_of(findings)[title], 'class="range' in drawn[title]
        assert marks == (seeds > 2 and not alike)
        assert marks != ("no intervals (an interval takes 3 seeds or more" in caption)
    assert ("parallel lines" in captions_of(findings)["Every seed"]) == (seeds > 1)
    tested = "corrected for many comparisons" in captions_of(findings)["Differences to the baseline"]
    assert tested == any(a.verdict.word != "not tested" for a in system.arms[1:])


@pytest.mark.parametrize(("direction", "joined"), [(1, True), (-1, False)])
def test_a_front_of_one_arm_is_not_called_joined(direction, joined):
    """Where each better arm costs more they are joined; where the cheapest is the best, the front is one point."""
    scores = 0.5 + direction * np.arange(3)[:, None] / 20 + np.zeros(2)
    system = made.make_system(name="s", axes=("x",), cells=[("a",), ("b",), ("c",)], scores=scores, seeds=range(2))
    caption = captions_of(made.make_findings([system], axes={"x": tuple("abc")}, seeds=range(2)))["Quality and cost"]
    assert ("Filled and joined: the Pareto front" in caption) == joined
    assert ("Filled: the Pareto front" in caption) != joined


def test_losses_of_arms_are_not_offered_for_comparison():
    """A reader of validation losses, as curves or at one step, is told that they may be sums of other terms."""
    findings = made.gated_study()
    assert "sum of other terms" in captions_of(findings)["Learning curves"]
    once = tuple(attrs.evolve(a, curve=a.curve[:1]) for a in findings.systems[0].arms)
    findings = attrs.evolve(findings, systems=(attrs.evolve(findings.systems[0], arms=once),))
    said = [b.text for s in document(findings).sections for b in s.blocks if isinstance(b, Say)]
    assert any("taken once" in text and "sum of other terms" in text for text in said)


def test_what_was_set_for_all_arms_stands_in_the_report():
    """Each value with where it was said, in HTML and Markdown, before the scores; no table where nothing was set."""
    findings = made.gated_study()
    shown = next(t for t in tables_of(findings) if t.title == "Set for all arms")
    assert cells_of(shown) == [
        ["setting", "value", "task", "said in"],
        ["data", "tissue", "tissue", "study.toml:9"],
        ["width", "16", "all", "study.toml:5"],
    ]
    titles = [t.title for t in tables_of(findings)]
    assert titles.index("Set for all arms") < titles.index("spatial: distance Spearman")
    bare = attrs.evolve(findings, fixed=())
    assert "Set for all arms" not in [t.title for t in tables_of(bare)]
    assert "study.toml:5" in markdown.render(document(findings))


def test_many_arms_stay_legible():
    """Above 40 arms figures show those of the largest effects and say how many there are; tables show all."""
    cells = [(f"a{i}",) for i in range(55)]
    generator = np.random.default_rng(0)
    own = generator.normal(0.5, 0.02, 5)
    scores = [own + 0.001 * i + generator.normal(0, 0.001, 5) for i in range(55)]
    system = made.make_system(name="s", axes=("axis",), cells=cells, scores=scores, seeds=range(5))
    findings = made.make_findings([system], axes={"axis": tuple(a for (a,) in cells)}, seeds=range(5))
    drawn = {b.title: b for s in document(findings).sections for b in s.blocks if isinstance(b, Picture)}
    for title, count in (("Every seed", 40), ("Differences to the baseline", 39), ("Quality and cost", 40)):
        assert "Of 55 arms with results, the 40 with the largest effects are shown." in drawn[title].caption
        rows = re.findall(r'class="row[^"]*">', drawn[title].panels[0])
        assert len(rows or drawn[title].key) == count
    assert ">a54<" in drawn["Every seed"].panels[0]
    assert ">a3<" not in drawn["Every seed"].panels[0]
    assert re.search(r"\d+ arms are better: .* and \d+ more", sentences(findings)[0])
    assert len(next(t for t in tables_of(findings) if t.title.startswith("s: ")).rows) == 55


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(-9, 9)), min_size=1, max_size=12), st.booleans())
def test_pareto_front_is_what_nothing_beats(points, larger):
    """An arm is on the front unless another is as cheap and as good and in one of them better; of equals, one is."""
    sign = 1 if larger else -1
    kept = front(points, larger)

    def beats(a, b):
        return a[0] <= b[0] and sign * a[1] >= sign * b[1] and a != b

    assert {points[i] for i in kept} == {b for b in points if not any(beats(a, b) for a in points)}
    assert len({points[i] for i in kept}) == len(kept)


numbers = st.floats(-1e12, 1e12, allow_nan=False)


@given(st.lists(numbers, min_size=1, max_size=6), st.booleans())
def test_scales_hold_their_values(values, log):
    """Every value lies within the scale, in order, and the ticks are few, inside, and told apart by their texts."""
    if log:
        values = [abs(v) + 1e-9 for v in values]
    x = scale(values, 10.0, 200.0, log=log)
    places = [x(v) for v in sorted(values)]
    assert places == sorted(places)
    assert all(10 <= p <= 200 for p in places)
    ticks = x.ticks()
    assert len(ticks) <= 11
    assert ticks == sorted(ticks)
    assert all(10 <= x(t) <= 200 for t in ticks)
    if max(values) - min(values) > 1e-9 * max(map(abs, values)):
        assert len({tick_text(t, ticks) for t in ticks}) == len(ticks) >= 1


@given(numbers, st.floats(1e-5, 1e6))
def test_intervals_read_back(value, half):
    """What is printed is the value to within a tenth of the interval's half width."""
    estimate = Estimate(value=value, low=value - half, high=value + half)
    if max(map(abs, (estimate.low, estimate.high))) >= 1e9:
        return
    found = [
        float(t.replace("−", "-").replace(",", ""))
        for t in re.findall(r"[−\d][\d,.]*", interval(estimate).replace(", ", " "))
    ]
    assert found == pytest.approx([value, estimate.low, estimate.high], abs=0.051 * half + 1e-9 * abs(value))


@given(st.floats(-1e307, 1e307))
def test_numbers_keep_their_digits(value):
    """Three significant digits, whatever the size."""
    text = number(value)
    assert float(text.replace("−", "-").replace(",", "")) == pytest.approx(value, rel=0.0051)
    assert len(text) < 16


@given(st.text())
def test_clean_text_is_one_visible_line(text):
    """No control, format, private or broken character and no line break is left; clean text stays as it is."""
    said = clean(text)
    assert not [c for c in said if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")]
    assert clean(said) == said


def test_importing_the_report_is_light():
    """Neither torch nor a plugin nor anndata is loaded before a format needs it."""
    code = "import sys, core.study.report; print([m for m in ('torch', 'plugins', 'anndata') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
