"""`core data stage1`, `core data stage2` and `core data prepare`."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from core.listed import Listed

HELP_STAGE1 = """usage: core data stage1 FILE.h5ad ... -o FOLDER [flags]

Read sections from AnnData files, keep a panel of genes, transform expression, and write one Parquet file a section,
with the statistics that undo it. The same command goes on where an interrupted one left; sections whose content and
parameters did not change are not done again.

{flags}"""

HELP_STAGE2 = """usage: core data stage2 FOLDER ... -o FOLDER [flags]

Merge data sets of `core data stage1` by gene name and by type name, divide their cells, and write shards that
`core run --data FOLDER` and `datasets.load_dataset` read.

{flags}"""

HELP_PREPARE = """usage: core data prepare FILE.h5ad ... -o FOLDER [flags]

Both stages in one: AnnData files become a folder that `core run --data FOLDER` and `datasets.load_dataset` read.

{flags}"""

SHORT = {"-o": "out"}


@contextlib.contextmanager
def _files() -> Iterator[None]:
    """What the disk or its owner refuses is told with its path, not with a traceback."""
    from core.errors import RunFailed

    try:
        yield
    except OSError as error:
        raise RunFailed(
            f"{error.filename or 'a file'}: {error.strerror or error}; nothing is left half-written"
        ) from None


@_files()
def stage1(words: list[str]) -> int:
    """`core data stage1`."""
    from plugins.data.stage1 import Stage1
    from plugins.data.transform import Transform

    flags = [Stage1, Transform]
    found = _read(flags, words, "data stage1", HELP_STAGE1)
    if found is None:
        return 0
    (asked, transform), places = found
    from core.cli.flags import told_as_flags
    from plugins.data import stage1 as work

    with told_as_flags(flags):
        return _done(work.stage1(places, asked, transform, _tell))


@_files()
def stage2(words: list[str]) -> int:
    """`core data stage2`."""
    from plugins.data.division import Ratios
    from plugins.data.stage2 import Stage2

    flags = [Stage2, Ratios]
    found = _read(flags, words, "data stage2", HELP_STAGE2)
    if found is None:
        return 0
    (asked, ratios), places = found
    from core.cli.flags import told_as_flags
    from plugins.data import stage2 as work

    with told_as_flags(flags):
        return _done(work.stage2(places, asked, ratios, _tell), use=True)


@_files()
def prepare(words: list[str]) -> int:
    """`core data prepare`."""
    import attrs

    from plugins.data import stage1 as first
    from plugins.data import stage2 as second
    from plugins.data.division import Ratios, check
    from plugins.data.transform import Transform

    flags = [first.Stage1, Transform, second.Stage2, Ratios]
    found = _read(flags, words, "data prepare", HELP_PREPARE)
    if found is None:
        return 0
    (read, transform, merge, ratios), places = found
    from core.cli.flags import told_as_flags
    from core.listed import finished_key, read_listed

    out = Path(merge.out).absolute()
    middle = out.with_name(f".{out.name}.stage1")
    read = attrs.evolve(read, out=str(middle), title=read.title or out.resolve().name)
    with told_as_flags(flags):
        old = finished_key(out, second.MADE)
        if old:
            with first.planned(places, read, transform, lambda line: None) as plan:
                new = second.key_of([plan.key], merge, ratios)
            if old == new:
                _tell(f"{out} is up to date: same content, same parameters")
                return _done(read_listed(out, second.MADE), use=True)
        first.stage1(places, read, transform, _tell, lambda plan: check(plan.parts.keys(), ratios))
        listed = second.stage2([str(middle)], merge, ratios, _tell)
    shutil.rmtree(middle)
    return _done(listed, use=True)


def _read(classes: Sequence[type], words: list[str], verb: str, text: str) -> tuple[list, list[str]] | None:
    """What the words ask for; None where it is help, which is printed."""
    from core.cli.flags import describe_flags, read_flags
    from core.errors import UserError

    if "-h" in words or "--help" in words:
        print(text.format(flags=describe_flags(classes, SHORT)))
        return None
    found, places = read_flags(classes, words, verb, SHORT)
    if not found[0].out:
        raise UserError(f"`core {verb}` needs -o FOLDER, where to write. `core {verb} --help` tells more")
    return found, places


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _done(listed: Listed, *, use: bool = False) -> int:
    print(listed.path)
    if use:
        _tell(f"core run --data {listed.path}")
    return 0
