"""`core push`: a prepared data set goes to the Hugging Face Hub, exactly as its manifest lists it."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from core.errors import RunFailed, UserError
from core.layers import is_flag
from core.listed import MANIFEST, Listed, read_listed
from core.names import near

HELP = """usage: core push FOLDER ORGANISATION/NAME [--public] [--dry-run]

Upload a folder of `core data prepare` or `core data stage2` to the Hugging Face Hub as a data set, private unless
--public is given. Every file is first compared with the manifest, and nothing but what the manifest lists is uploaded,
in one commit. Needs the extra `hub`.

The token comes from `hf auth login` or the variable HF_TOKEN; there is no flag for it, because a command line can be
read by others.

  --public    a data set that everybody can see (an existing one stays as it is)
  --dry-run   say what would be uploaded"""

MADE = "core data stage2"
SWITCHES = ("--public", "--dry-run", "-h", "--help")
_PLACE = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


class Hub(Protocol):
    """What is asked of `huggingface_hub.HfApi`."""

    def create_repo(self, repo_id: str, *, repo_type: str, private: bool, exist_ok: bool) -> Any: ...

    def create_commit(self, repo_id: str, operations: Sequence[Any], *, commit_message: str, repo_type: str) -> Any: ...


def main(words: list[str]) -> int:
    if "-h" in words or "--help" in words:
        print(HELP)
        return 0
    flags, places = [w for w in words if is_flag(w)], [w for w in words if not is_flag(w)]
    for word in flags:
        if "token" in word:
            raise UserError(
                f"`core push` takes no {word.partition('=')[0]}: others can read a command line. Log in with "
                "`hf auth login`, or set HF_TOKEN"
            )
        if word not in SWITCHES:
            raise UserError(f"`core push` has no flag {word}.{near(word, SWITCHES)} It takes {', '.join(SWITCHES)}")
    if len(places) != 2:
        raise UserError("usage: core push FOLDER ORGANISATION/NAME")
    folder, place = places
    if not _PLACE.fullmatch(place):
        raise UserError(f"{place!r} is no place on the Hub: write ORGANISATION/NAME, such as my-lab/cortex")
    listed = read_listed(Path(folder).expanduser(), MADE)
    listed.verify()
    names = [*sorted(listed.files), MANIFEST]
    size = sum(bytes_ for bytes_, _ in listed.files.values())
    if "--dry-run" in flags:
        print(f"{place}: {len(names)} files, {size / 2**20:,.1f} MiB\n" + "\n".join(f"  {name}" for name in names))
        return 0
    print(f"core: {len(names)} files, {size / 2**20:,.1f} MiB to {place}", file=sys.stderr)
    print(upload(listed, place, names, public="--public" in flags))
    return 0


def client() -> tuple[Hub, Any]:
    """The Hub's own client, which finds its token itself, and its class of a file to add.

    Raises:
        UserError: the extra `hub` is not installed.
    """
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
    except ImportError:
        raise UserError("`core push` needs huggingface_hub. Install with: pip install 'cellcore[hub]'") from None
    return HfApi(), CommitOperationAdd


def upload(listed: Listed, place: str, names: Sequence[str], *, public: bool) -> str:
    """One commit of the named files; where it can be seen.

    Raises:
        RunFailed: the Hub refused, or cannot be reached.
    """
    hub, add = client()
    try:
        hub.create_repo(place, repo_type="dataset", private=not public, exist_ok=True)
        operations = [add(path_in_repo=name, path_or_fileobj=str(listed.path / name)) for name in names]
        message = f"Prepared by cellcore, {listed.key[:16]}"
        hub.create_commit(place, operations, commit_message=message, repo_type="dataset")
    except Exception as error:  # the client raises errors of several libraries, all of which mean: not uploaded
        reason = " ".join(str(error).split())[:240]
        raise RunFailed(
            f"the Hub did not take {place} ({type(error).__name__}: {reason}); are you logged in (`hf auth login`, or "
            "HF_TOKEN), and may you write there? Nothing here was changed"
        ) from error
    return f"https://huggingface.co/datasets/{place}"
