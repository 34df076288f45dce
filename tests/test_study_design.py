"""Which cells a study has: counts, fractions, exclusions, and that the order of a user's words changes nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import UserError
from core.study.axes import Axis, make_axis
from core.study.design import MOST, Grid, lay_out

LIMITS = settings(deadline=None, max_examples=60)


def axes_of(levels: Mapping[str, int]) -> list[Axis]:
    return [make_axis(key, [f"{key}{i}" for i in range(count)], "here") for key, count in levels.items()]


def first(axes: Sequence[Axis]) -> dict[str, str]:
    return {axis.key: axis.levels[0].label for axis in axes}


def names(grid: Grid) -> list[str]:
    return [grid.name(cell) for cell in grid.cells]


@st.composite
def asked(draw: st.DrawFn) -> tuple[list[Axis], dict[str, str], str, list[dict[str, str]], list[Any]]:
    """Axes, a baseline, a design, cells and exclusions that leave something to compare."""
    keys = draw(
        st.lists(st.sampled_from(["ffn", "attention", "gate", "train.lr", "ffn.ratio"]), min_size=1, unique=True)
    )
    axes = axes_of({key: draw(st.integers(2, 4)) for key in keys})
    baseline = {axis.key: draw(st.sampled_from(axis.levels)).label for axis in axes}
    kind = draw(st.sampled_from(["full", "ofat", "twoway", "list"]))
    other = {axes[0].key: next(lv.label for lv in axes[0].levels if lv.label != baseline[axes[0].key])}
    cells = [other]
    for _ in range(draw(st.integers(0, 4))):
        chosen = draw(st.lists(st.sampled_from(axes), unique=True))
        cells.append({axis.key: draw(st.sampled_from(axis.levels)).label for axis in chosen})
    exclude = []
    if len(axes[-1].levels) > 2 and kind != "list" and draw(st.booleans()):
        labels = [lv.label for lv in axes[-1].levels if lv.label != baseline[axes[-1].key]]
        exclude = [({axes[-1].key: labels[-1]}, why, "here") for why in draw(st.sampled_from([["x"], ["x", "a"]]))]
    return axes, baseline, kind, cells if kind == "list" else [], exclude


@LIMITS
@given(asked(), st.randoms(use_true_random=False))
def test_order_changes_no_cell(said: tuple, random: Any) -> None:
    """Axes, levels, cells and exclusions in another order give the same cells in the same order."""
    axes, baseline, kind, cells, exclude = said
    one = lay_out(axes, baseline, kind, cells=cells, exclude=exclude)

    def mixed(items: Sequence[Any]) -> list[Any]:
        return random.sample(list(items), len(items))

    turned = [Axis(axis.key, tuple(mixed(axis.levels)), axis.origin) for axis in mixed(axes)]
    other = lay_out(turned, baseline, kind, cells=mixed(cells), exclude=mixed(exclude))
    assert names(one) == names(other)
    assert [(one.name(c), why) for c, why in one.excluded] == [(other.name(c), why) for c, why in other.excluded]
    assert one.cells[0] == one.baseline
    assert len({*names(one)}) == len(one.cells)


@LIMITS
@given(st.lists(st.integers(2, 4), min_size=1, max_size=4))
def test_counts(many: list[int]) -> None:
    """Full is the product, one factor at a time one cell a level, two-way adds every pair of levels of two axes."""
    axes = axes_of({f"k{i}": count for i, count in enumerate(many)})
    more = [count - 1 for count in many]
    pairs = sum(a * b for a, b in combinations(more, 2))
    assert len(lay_out(axes, first(axes), "full").cells) == math.prod(many)
    assert len(lay_out(axes, first(axes), "ofat").cells) == 1 + sum(more)
    assert len(lay_out(axes, first(axes), "twoway").cells) == 1 + sum(more) + pairs


def test_the_counts_that_a_reader_expects() -> None:
    """Attention 5 x ffn 3 x norm 2 x position 2 x objective 2: 120 cells, 10 around the baseline, 39 with all pairs."""
    axes = axes_of({"attention": 5, "ffn": 3, "norm": 2, "position": 2, "objective": 2})
    counts = [len(lay_out(axes, first(axes), kind).cells) for kind in ("full", "ofat", "twoway")]
    assert counts == [120, 1 + 4 + 2 + 3, 39]


FRACTIONS = [
    (3, "C=AB", 3), (4, "D=ABC", 4), (5, "E=ABCD", 5), (5, "D=AB,E=AC", 3), (6, "E=ABC F=BCD", 4),
    (7, "D=AB;E=AC;F=BC;G=ABC", 3),
]  # fmt: skip


@pytest.mark.parametrize(("count", "generators", "resolution"), FRACTIONS)
def test_fractions_are_balanced(count: int, generators: str, resolution: int) -> None:
    """A fraction has 2^(k-p) cells with the baseline, all effects below half its resolution free of one another."""
    axes = axes_of({chr(ord("a") + i): 2 for i in range(count)})
    for baseline in (first(axes), {axis.key: axis.levels[i % 2].label for i, axis in enumerate(axes)}):
        grid = lay_out(axes, baseline, f"fraction:{generators}")
        assert len(grid.cells) == 2 ** (count - generators.count("="))
        assert [level.label for level in grid.cells[0]] == [*baseline.values()]
        signs = [[1 if level != start else -1 for level, start in zip(cell, grid.baseline, strict=True)]
                 for cell in grid.cells]  # fmt: skip
        columns = [*zip(*signs, strict=True)]
        for size in range(1, resolution):
            for chosen in combinations(columns, size):
                assert sum(math.prod(row) for row in zip(*chosen, strict=True)) == 0
        shortest = [
            c for c in combinations(columns, resolution) if len({math.prod(r) for r in zip(*c, strict=True)}) == 1
        ]
        assert shortest


def test_an_exclusion_takes_its_cells_out_and_keeps_its_reason() -> None:
    """All cells that match every level named go, with all the reasons that matched, and no other does."""
    axes = axes_of({"a": 2, "b": 3})
    grid = lay_out(
        axes,
        first(axes),
        "full",
        exclude=[
            ({"a": "a1", "b": "b1"}, "no kernel", "f:1"),
            ({"b": "b2"}, " slow ", "f:2"),
            ({"b": "b2", "a": "a1"}, "no kernel", ""),
        ],
    )
    assert names(grid) == ["a=a0 b=b0", "a=a0 b=b1", "a=a1 b=b0"]
    told = {grid.name(cell): why for cell, why in grid.excluded}
    assert told == {"a=a0 b=b2": "slow", "a=a1 b=b1": "no kernel", "a=a1 b=b2": "no kernel; slow"}


def test_a_list_takes_the_levels_of_the_baseline_where_nothing_is_said() -> None:
    """The cells of `list` are those given, once each, and the baseline."""
    axes = axes_of({"a": 3, "b": 2})
    grid = lay_out(axes, first(axes), "list", cells=[{"a": "a2"}, {}, {"b": "b1", "a": "a1"}, {"a": "a2", "b": "b0"}])
    assert names(grid) == ["a=a0 b=b0", "a=a1 b=b1", "a=a2 b=b0"]


def refused(**more: Any) -> str:
    axes = more.pop("axes", axes_of({"attention": 2, "ffn": 3}))
    baseline = more.pop("baseline", first(axes))
    with pytest.raises(UserError) as caught:
        lay_out(axes, baseline, more.pop("kind", "full"), **{"where": "study.toml:4"} | more)
    return str(caught.value)


TWO = axes_of({"a": 2, "b": 2, "c": 2})
WIDE = axes_of({f"k{i:02d}": 4 for i in range(30)})


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (
            {"kind": "fulll"},
            "study.toml:4: no design is called 'fulll'. Did you mean 'full'? Designs: full, ofat, "
            "twoway, fraction, list",
        ),
        ({"kind": "ofat:A=B"}, "study.toml:4: the design ofat takes nothing behind a colon, got 'A=B'"),
        ({"kind": "list"}, "study.toml:4: the design `list` needs cells: [[design.cells]] tables in the study file"),
        (
            {"cells": [{"ffn": "ffn1"}]},
            '[[design.cells]] are for the design `list`, and this one is full (study.toml:4). Say kind = "list" '
            "under [design], or drop the cells",
        ),
        (
            {"kind": "list", "cells": [{"fnf": "ffn1"}]},
            "study.toml:4: no axis is called 'fnf'. Did you mean 'ffn'? Axes: attention, ffn",
        ),
        (
            {"kind": "list", "cells": [{"ffn": "ffn9"}]},
            "study.toml:4: ffn has no level 'ffn9'. Did you mean 'ffn2'? Its levels: ffn0, ffn1, ffn2",
        ),
        (
            {"kind": "list", "cells": [{}]},
            "study.toml:4: the baseline is the only cell left, so nothing would be compared; give another cell",
        ),
        (
            {"baseline": {"attention": "soft", "ffn": "ffn0"}},
            "the baseline: attention has no level 'soft'. Its levels: attention0, attention1",
        ),
        (
            {"exclude": [({"ffn": "ffn1"}, " ", "--exclude")]},
            "--exclude: an exclusion needs its reason (why = ...), which the report prints",
        ),
        ({"exclude": [({}, "x", "--exclude")]}, "--exclude: an exclusion names at least one level, attention=linear"),
        (
            {"exclude": [({"ffn": "ffn0"}, "x", "--exclude")]},
            "--exclude: this excludes the baseline (attention=attention0 ffn=ffn0), which all contrasts refer to",
        ),
        (
            {"kind": "ofat", "exclude": [({"ffn": "ffn1", "attention": "attention1"}, "x", "f:9")]},
            "f:9: no cell of the design matches ffn=ffn1 attention=attention1",
        ),
        ({"exclude": [({"gate": "x"}, "x", "f:9")]}, "f:9: no axis is called 'gate'. Axes: attention, ffn"),
        ({"kind": "fraction:B=A"}, "study.toml:4: a fraction is of axes with two levels, and ffn has another number"),
        (
            {"axes": TWO, "kind": "fraction"},
            "study.toml:4: a fraction needs its generators, fraction:E=ABCD, where A is a, B is b, C is c",
        ),
        (
            {"axes": TWO, "kind": "fraction:C=AA"},
            "study.toml:4: 'C=AA' is no generator; write E=ABCD, where A is a, B is b, C is c",
        ),
        (
            {"axes": TWO, "kind": "fraction:C=AD"},
            "study.toml:4: C=AD names an axis that is not free; free letters are "
            "the others, and A is a, B is b, C is c",
        ),
        (
            {"axes": WIDE},
            f"study.toml:4: the design full of these axes has more than {MOST:,} cells; take fewer levels, "
            "or a smaller design: ofat, twoway, fraction or list",
        ),
    ],
)
def test_mistakes_are_told(words: dict[str, Any], text: str) -> None:
    """Each mistake has its text: where, what, what is allowed, what to do."""
    assert refused(**words) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "f:3: an axis has two levels or more, and ffn has none"),
        (
            ["dense"],
            "f:3: an axis has two levels or more, and ffn has one level only, 'dense'; a value that all arms "
            "share stands in [set]",
        ),
        (["a", "b", "a"], "f:3: the axis ffn has two levels called 'a'; keep one, or tell them apart by `as`"),
        (
            ["a", {"experts": 4}],
            'f:3: a level of ffn that is a table needs a name, { name = "moe", experts = 4 }, or a '
            'value, { value = 0.001, as = "slow" }',
        ),
        (["a", {"name": "b", "as": 3}], "f:3: `as` of a level of ffn is what the report calls it, got 3"),
        (["a", {"value": 3, "as": ""}], "f:3: `as` of a level of ffn is what the report calls it, got ''"),
    ],
)
def test_levels_that_are_none_are_told(values: list[Any], text: str) -> None:
    """An axis needs two levels that a reader can tell apart."""
    with pytest.raises(UserError) as caught:
        make_axis("ffn", values, "f:3")
    assert str(caught.value) == text


def test_labels_of_levels() -> None:
    """A level is called what one would type for it, a table by its name and values unless `as` says otherwise."""
    values = [True, 1e-3, ["a", "b"], {"name": "moe", "experts": 4, "gate": {"bias": 1.0}}, {"value": 7}]
    axis = make_axis("ffn", [*values, {"name": "moe", "as": "plain"}], "here")
    labels = ["true", "0.001", "[a,b]", "moe(experts=4, gate.bias=1.0)", "7", "plain"]
    assert [level.label for level in axis.levels] == labels
    assert axis.levels[3].entries == {"ffn": "moe", "ffn.experts": 4, "ffn.gate.bias": 1.0}
