"""What fits where, told before a tensor exists."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config import ConfigError, Layer, Resolved, resolve
from core.contract import absent, refusals
from core.registry import Registry
from tests.fakes import MANIFEST, Root, Task, registry

law = settings(deadline=None, max_examples=60)


def solved(found: Registry, root: type = Root, **said: object) -> Resolved:
    return resolve(root, [Layer("CLI", {k.replace("__", "."): (v, f"CLI --{k}") for k, v in said.items()})], found)


def accepting(row: str, **accepts: list[str]) -> Registry:
    """The fakes, where one attention accepts what is said."""
    table = ", ".join(f"{kind} = {names}" for kind, names in accepts.items())
    return registry(MANIFEST.replace(f"[attention.{row}]\n", f"[attention.{row}]\naccepts = {{ {table} }}\n"))


@law
@given(
    gates=st.none() | st.lists(st.sampled_from(["shut", "bent", "curved"]), unique=True),
    masks=st.none() | st.lists(st.sampled_from(["window"]), unique=True),
    gate=st.sampled_from(["shut", "bent", "curved", "bent7"]),
    mask=st.sampled_from(["window", "none"]),
)
def test_a_tree_stands_exactly_if_every_row_accepts_what_is_below(
    gates: list | None, masks: list | None, gate: str, mask: str
) -> None:
    """A kind that a row does not mention is free; of one that it does mention, only the named rows may stand there."""
    accepts = {kind: names for kind, names in (("gate", gates), ("mask", masks)) if names is not None}
    found = accepting("heads", **accepts)
    name = "bent" if gate == "bent7" else gate
    wrong = [
        kind for kind, filled in (("gate", name), ("mask", mask)) if kind in accepts and filled not in accepts[kind]
    ]
    expected = [kind for kind in wrong if not (kind == "mask" and mask == "none")]
    try:
        solved(found, gate=gate, mask=mask)
    except ConfigError as error:
        told = str(error).splitlines()
    else:
        told = []
    assert [line.partition(":")[0] for line in told] == [f"attention.{kind}" for kind in expected]


def test_a_refusal_says_who_what_why_and_instead() -> None:
    """Piece, row, reason, what is taken, and the flag."""
    found = registry(
        MANIFEST.replace(
            "[attention.heads]\n",
            '[attention.heads]\naccepts = { gate = ["shut", "curved"] }\nbecause = { gate = "it counts" }\n',
        )
    )
    with pytest.raises(ConfigError) as caught:
        solved(found, gate="bent")
    assert str(caught.value) == (
        "attention.gate: heads takes no gate 'bent', because it counts; it takes shut, curved (CLI --gate)"
    )


def test_a_default_that_a_row_refuses_is_told() -> None:
    """A row that does not accept its own default names it, so that its author hears of it."""
    with pytest.raises(ConfigError, match=r"attention.mask: heads takes no mask 'window' \(default of Heads\)"):
        solved(accepting("heads", mask=[]))


def test_rows_are_asked_at_any_depth_and_for_lists() -> None:
    """A slot inside a slot, an item of a list, and the slots beside an inline piece."""
    with pytest.raises(ConfigError, match=r"attention\.second: heads takes no ffn 'tall'"):
        solved(accepting("heads", ffn=[]), second="tall")
    nested = registry(
        MANIFEST.replace("[attention.heads]\n", '[attention.heads]\naccepts = { gate = ["shut"], metric = [] }\n')
        + '[ffn.nest]\ntarget = "tests.fakes:Nest"\nsummary = "x"\n'
    )
    with pytest.raises(ConfigError) as caught:
        solved(nested, second="nest")
    assert [line.partition(":")[0] for line in str(caught.value).splitlines()] == [
        "attention.second.gate",
        "attention.second.metrics[0]",
    ]
    solved(nested, extra="nest")
    with pytest.raises(ConfigError, match="gate: heads takes no gate 'bent'"):
        solved(accepting("heads", gate=["shut"]), Task, gate="bent")


def test_a_slot_that_is_not_there_is_explained_where_a_row_can() -> None:
    """A kind that a row closes has a reason; a kind that nobody mentions has none."""
    settings_ = solved(registry(), attention="lone").settings
    assert absent("gate", settings_) == "attention 'lone' takes no gate, because it has one output"
    assert absent("mask", settings_) == "attention 'lone' takes no mask"
    assert absent("kernel", settings_) is None
    assert refusals(settings_, registry()) == []
