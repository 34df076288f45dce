"""Counts, reasons and values in plain English."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from core.words import plural, reason, spell


def test_one_is_not_many() -> None:
    """Only one thing stands without an s."""
    assert [plural(n, "cell") for n in (0, 1, 2, 1000)] == ["0 cells", "1 cell", "2 cells", "1,000 cells"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("because it forms no logits", "it forms no logits"), ("Because: no kernel", "no kernel"),
        ("no kernel", "no kernel"), ("because", "because"), ("becauseless", "becauseless"), ("  x ", "x"),
    ],
)  # fmt: skip
def test_a_reason_says_because_once(given: str, said: str) -> None:
    """What stands behind "because" begins with none of its own, and is never empty."""
    assert reason(given) == said


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], "none"), (["contact_f1"], "contact_f1"), (("a", True, None), "a, true, none"), ("", "none"),
        (12000, "12,000"), (0.05, "0.05"), ({"train": 54, "test": 6}, "train 54, test 6"), ({}, "none"),
        ({"section1": {"train": 54}, "section2": {"train": 60}}, "section1: train 54; section2: train 60"),
        ({"ffn": ["dense", "moe"]}, "ffn: dense, moe"),
    ],
)  # fmt: skip
def test_values_are_words(value: Any, said: str) -> None:
    """No bracket, quote or capital of Python's own notation is left."""
    assert spell(value) == said


def test_words_import_nothing_heavy() -> None:
    """The command line may use them before torch, numpy or attrs are there."""
    code = "import sys, core.words; print([m for m in ('torch', 'numpy', 'attrs', 'plugins') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"
