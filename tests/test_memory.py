"""Freed memory that the command keeps."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.__main__ import DECIDED, keeping

FAULTS = """
import resource
import torch

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16, 2**20)  # 64 MB, more than the C library keeps by itself
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(*(faults() for _ in range(4)))
"""
STARTED = """
import os, runpy, sys
def told(program, words, environment):
    print(*words[1:], environment["GLIBC_TUNABLES"])
    raise SystemExit(0)
os.execve = told
sys.orig_argv = [sys.executable, "-m", "core", "list"]
"""


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in DECIDED}


def test_kept_memory_is_used_again() -> None:
    """In the command's environment a tensor of 64 MB takes the pages of the last one; there is nothing to keep where
    the C library is another."""
    changed = keeping(clean())
    if changed is not None:
        done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, env=changed)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout.split()[-1]) < 100


def test_the_command_starts_once_more_with_kept_memory() -> None:
    """`python -m core` hands its own words to a process that keeps memory; in that one there is nothing to change."""
    changed = keeping(clean())
    script = STARTED + "runpy.run_module('core', run_name='__main__', alter_sys=True)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=clean())
    assert done.returncode == 0, done.stderr
    if changed is not None:
        assert done.stdout.split() == ["-m", "core", "list", changed["GLIBC_TUNABLES"]]
        assert keeping(changed) is None


def test_a_program_that_calls_the_command_is_not_started_again(tmp_path: Path) -> None:
    """What imports the command's `main` keeps its process as it is."""
    program = tmp_path / "mine.py"
    program.write_text(
        STARTED + "sys.argv = ['core', '--version']\nfrom core.__main__ import main\nraise SystemExit(main())\n"
    )
    done = subprocess.run([sys.executable, str(program)], capture_output=True, text=True, env=clean())
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("cellcore")
    assert "glibc.malloc" not in done.stdout


@pytest.mark.parametrize("name", DECIDED)
def test_a_users_own_word_stands(name: str) -> None:
    """Where the user has told the C library what to do, nothing is changed."""
    assert keeping({**clean(), name: "1"}) is None


def test_other_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without glibc there is nothing to tell."""

    def unknown(name: str) -> str:
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", unknown)
    assert keeping({}) is None
