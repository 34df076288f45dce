"""The report of a study in a real browser: nothing complains, every figure is seen, tables sort and filter."""

import attrs
import numpy as np
import pytest

import findings as made
from browser import browser, executable
from core.study.report import write
from findings import NAMES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(executable() is None, reason="no Chromium in PATH (Debian: apt install chromium)"),
]

AXES = {"attention": ("softmax", "linear", "gated_headwise", "gated_elementwise"), "ffn": ("dense", "moe4x2")}
FIGURES = """[...document.querySelectorAll("figure svg")].map((svg) => {
  const box = svg.getBoundingClientRect(), inside = svg.getBBox();
  return [svg.querySelector("title").textContent, box.width, box.height, inside.x, inside.x + inside.width];
})"""
TABLE = 'document.querySelector("table.browse")'
COLUMN = (
    f"[...{TABLE}.tBodies[0].rows].map((r) => [r.cells[0].textContent, r.cells[2].dataset.v, r.className, r.hidden])"
)
MEAN = f"{TABLE}.tHead.rows[0].cells[2]"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browser(executable(), tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def report(tmp_path):
    def make(findings):
        return write(findings, tmp_path, ("html",))[0]

    return make


def hostile():
    cells = [(NAMES[5],), (NAMES[6],), (NAMES[17],)]
    scores = np.random.default_rng(0).normal(0.5, 0.05, (3, 5))
    system = made.make_system(
        name=NAMES[13], axes=(NAMES[14],), cells=cells, scores=scores, seeds=range(5), label=NAMES[8]
    )
    return made.make_findings([system], axes={NAMES[14]: tuple(c for (c,) in cells)}, seeds=range(5), title=NAMES[5])


def two():
    systems = [made.gated(6), made.gated(6, system="perturb", larger=False, stopped=(), lost=False)]
    return made.make_findings(systems, axes=AXES, seeds=range(6))


@pytest.mark.parametrize("width", [1280, 360])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("study", [made.gated_study, two, hostile], ids=["gated", "two systems", "hostile names"])
def test_every_figure_is_seen_and_nothing_complains(page, report, study, width, dark):
    """Each figure has a box with size, draws within its own width, fits the window; the console stays empty."""
    page.trouble.clear()
    page.open(report(study()), width, dark=dark)
    figures = page.js(FIGURES)
    assert len(figures) >= 7
    for title, wide, high, left, right in figures:
        assert min(wide, high) > 60, title
        assert wide <= width, title
        assert -12 < left < right < 372, title
    assert page.js("document.documentElement.scrollWidth") <= width
    assert page.trouble == []


def test_wide_tables_are_cards_on_a_phone_and_say_so_elsewhere(page, report):
    """At 390 px every cell of the main table lies in the window beside its heading; at 1280 a hint says to scroll."""
    path = report(made.gated_study())
    page.open(path, 390)
    rows = f"[...{TABLE}.tBodies[0].rows].filter((r) => r.className !== 'apart')"
    ends = page.js(f"{rows}.flatMap((r) => [...r.cells].map((c) => c.getBoundingClientRect().right))")
    assert len(ends) == 8 * 14
    assert max(ends) <= 390
    assert page.js(f'getComputedStyle({TABLE}.tBodies[0].rows[1].cells[5], "::before").content') == '"change %"'
    assert page.js('[...document.querySelectorAll(".cards")].every((t) => t.parentElement.scrollWidth <= 390)')
    page.js(f'{MEAN}.querySelector("button").click()')
    assert page.js(f'{MEAN}.getAttribute("aria-sort")') == "ascending"
    page.js(f'input = {TABLE}.parentElement.previousElementSibling.querySelector("input"); input.value = "no such arm"')
    page.js('input.dispatchEvent(new Event("input"))')
    assert page.js(f"{TABLE}.tBodies[0].getBoundingClientRect().height") == 0
    hint = f"{TABLE}.parentElement.previousElementSibling.previousElementSibling"
    assert page.js(f"{hint}.className") == "note hint"
    assert page.js(f"{hint}.checkVisibility()") is False
    page.open(path, 1280)
    assert page.js(f"{TABLE}.parentElement.scrollWidth > {TABLE}.parentElement.clientWidth")
    page.js("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.js(f"{hint}.checkVisibility()") is True


def test_text_stands_out_from_its_ground(page, report):
    """In either mode text has a contrast of 4.5 or more to what it stands on (WCAG 2.1, 1.4.3)."""
    for dark in (False, True):
        page.open(report(made.gated_study()), dark=dark)
        low = page.js(CONTRAST)
        assert low == []


CONTRAST = """(() => {
  const channel = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).map(Number);
    return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b); };
  const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (c !== "rgba(0, 0, 0, 0)") return c; } return "rgb(255, 255, 255)"; };
  const low = [];
  for (const e of document.querySelectorAll("body *")) {
    if (!e.checkVisibility() || ![...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim())) continue;
    if (["title", "desc", "script"].includes(e.tagName.toLowerCase())) continue;
    const ink = e.tagName === "text" ? getComputedStyle(e).fill : getComputedStyle(e).color;
    const [a, b] = [light(ink), light(ground(e))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) low.push([e.tagName, e.className.baseVal ?? e.className, ink, ground(e)]);
  }
  return low;
})()"""


def test_tables_sort_by_mouse_and_by_keyboard(page, report):
    """Up, down and back; rows without a number stay last, references below all arms; aria-sort tells the order."""
    page.trouble.clear()
    page.open(report(made.gated_study()))
    before = page.js(COLUMN)
    page.js(f'{MEAN}.querySelector("button").click()')
    rows = page.js(COLUMN)
    arms = [float(v) for _, v, kind, _ in rows if kind != "apart" and v is not None]
    assert page.js(f'{MEAN}.getAttribute("aria-sort")') == "ascending"
    assert arms == sorted(arms)
    assert len(arms) == 7
    assert [kind for *_, kind, _ in rows][-4:] == ["apart"] * 4
    assert rows[7][1] is None
    page.js(f'{MEAN}.querySelector("button").focus()')
    page.press("Enter")
    arms = [float(v) for _, v, kind, _ in page.js(COLUMN) if kind != "apart" and v is not None]
    assert page.js(f'{MEAN}.getAttribute("aria-sort")') == "descending"
    assert arms == sorted(arms, reverse=True)
    page.press(" ")
    assert page.js(COLUMN) == before
    page.js(f'{TABLE}.tHead.rows[0].cells[0].querySelector("button").click()')
    names = [name for name, _, kind, _ in page.js(COLUMN) if kind != "apart"]
    assert names == sorted(names)
    assert page.trouble == []


def test_tables_filter_by_words(page, report):
    """Rows that hold all words stay, in any case; an empty box shows all again."""
    page.open(report(made.gated_study()))

    def shown(text):
        page.js(f'input = {TABLE}.parentElement.previousElementSibling.querySelector("input"); input.value = "{text}"')
        page.js('input.dispatchEvent(new Event("input"))')
        return [name for name, _, _, hidden in page.js(COLUMN) if not hidden]

    assert shown("HEADWISE moe") == ["attention=gated_headwise ffn=moe4x2"]
    assert len(shown("")) == 12
    assert shown("no such arm") == []


def test_print_opens_what_is_folded(page, report):
    """On paper the commands and settings are there, and what only a screen can use is not."""
    page.open(report(made.gated_study()))
    page.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert page.js('document.querySelector("details code").getBoundingClientRect().height') > 5
    assert page.js('getComputedStyle(document.querySelector("nav")).display') == "none"
    page.call("Emulation.setEmulatedMedia", media="", features=[])


def test_hostile_names_run_nothing(page, report):
    """A name that is a script is shown and not run, whichever way it tries."""
    page.trouble.clear()
    page.open(report(attrs.evolve(hostile(), warnings=NAMES)))
    assert page.js("document.scripts.length") == 1
    assert page.js('document.body.innerText.includes("<script>alert(1)</script>")')
    attributes = page.js("[...document.querySelectorAll('*')].flatMap((e) => e.getAttributeNames())")
    assert not [name for name in attributes if name.startswith("on")]
    assert page.trouble == []
