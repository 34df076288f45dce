"""Published screens: where they are to be had, and what is checked of a copy."""

from __future__ import annotations

import hashlib
import json
import secrets
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, final

import attrs

from core.errors import RunFailed, UserError
from core.files import sync_file, sync_folder, write_json
from core.names import near

API = "https://api.figshare.com/v2/articles/{article}/files"
BLOCK = 1 << 20
SECONDS = 60.0
"""without an answer for so long a download is given up"""


@final
@attrs.frozen
class Published:
    """A screen in a public archive."""

    article: int
    """of figshare"""
    file: str
    paper: str
    use: str
    """what `core run` is to be told"""

    @property
    def page(self) -> str:
        return f"https://figshare.com/articles/dataset/{self.article}"


SCREENS: Mapping[str, Published] = {
    "norman": Published(24688110, "norman.h5ad", "Norman et al. 2019, Science 365:786", ""),
    "combosciplex": Published(
        25062230,
        "combosciplex.h5ad",
        "Lotfollahi et al. 2023, Mol Syst Biol 19:e11517, drug pairs",
        " --data.cut.by combosciplex7",
    ),
}
"""the copies that scDFM (arXiv:2602.07103) names"""


def published(name: str) -> Published:
    """A screen by name.

    Raises:
        UserError: none is called so.
    """
    if name not in SCREENS:
        raise UserError(f"no published screen is called {name!r}: there are {', '.join(SCREENS)}.{near(name, SCREENS)}")
    return SCREENS[name]


def fetch(
    name: str,
    out: Path,
    given: Path | None,
    sha256: str,
    tell: Callable[[str], None],
    opener: Callable[[str], BinaryIO],
) -> str:
    """Put a published screen at `out`, from the archive or from a copy, and check it.

    What is checked: against `sha256`, where it is given; a download against size and MD5 that the archive lists for
    it; any copy against the SHA-256 that was written down beside `out` the first time. No checksum of these files is
    known to this program, so a first copy from elsewhere is only written down, which is told.

    Args:
        name: one of `SCREENS`.
        out: the file to write; beside it `FILE.sha256.json`.
        given: a copy that is there already; None: download it.
        sha256: what the user knows; empty: nothing.
        tell: gets a sentence on each thing that was checked.
        opener: a URL as a stream.

    Returns:
        The SHA-256 of the file.

    Raises:
        UserError: no such copy, or a checksum that does not fit; nothing is left at `out` that was not there.
        RunFailed: the archive cannot be reached or read, or the disk is full.
    """
    screen = published(name)
    wanted = sha256.strip().lower()
    if wanted and (len(wanted) != 64 or set(wanted) - set("0123456789abcdef")):
        raise UserError(f"--sha256 {sha256}: a SHA-256 is 64 characters of 0-9 and a-f")
    record = out.with_name(f"{out.name}.sha256.json")
    temporary = out.with_name(f".{out.name}.{secrets.token_hex(4)}.tmp")
    try:
        if given is not None:
            size, sha, md5 = _from_file(given, temporary)
            listed: Mapping[str, Any] = {}
        else:
            listed = _listed(screen, opener)
            size, sha, md5 = _download(screen, listed, temporary, tell, opener)
            if (size, md5) != (listed["size"], listed["computed_md5"]):
                raise UserError(
                    f"{screen.file} came with {size} bytes and MD5 {md5}, and {screen.page} lists {listed['size']} "
                    f"bytes and {listed['computed_md5']}: nothing is kept; try again"
                )
            tell(f"size and MD5 are those that {screen.page} lists")
        _compare(out.name, sha, wanted, record, tell)
        sync_file(temporary)
        temporary.replace(out)
        sync_folder(out.absolute().parent)
        source = screen.page if given is None else given.name
        write_json(record, {"screen": name, "sha256": sha, "md5": md5, "size": size, "from": source})
    except OSError as error:
        raise RunFailed(f"{error.filename or out}: {error.strerror or error}; nothing is left half-written") from None
    finally:
        temporary.unlink(missing_ok=True)
    return sha


def open_url(address: str) -> BinaryIO:
    """A URL as a stream."""
    request = urllib.request.Request(address, headers={"User-Agent": "cellcore"})
    stream: BinaryIO = urllib.request.urlopen(request, timeout=SECONDS)
    return stream


def _compare(name: str, sha: str, wanted: str, record: Path, tell: Callable[[str], None]) -> None:
    if wanted and sha != wanted:
        raise UserError(f"{name} has SHA-256 {sha}, not the one of --sha256 ({wanted}): it is another file, not kept")
    known = ""
    if record.exists():
        try:
            known = str(json.loads(record.read_text("utf-8"))["sha256"])
        except (ValueError, KeyError, TypeError):
            raise UserError(f"{record} cannot be read; remove it to write the checksum down anew") from None
    if known and sha != known:
        raise UserError(
            f"{name} has SHA-256 {sha}, and {record.name} has {known} from the first time: it is another file, not "
            f"kept. Remove {record.name} if the new one is right"
        )
    if wanted or known:
        tell(f"SHA-256 is that of {' and of '.join(['--sha256'] * bool(wanted) + [record.name] * bool(known))}")
    else:
        tell(f"SHA-256 {sha} is written down in {record.name}; no earlier one is known to compare it with")


def _from_file(given: Path, temporary: Path) -> tuple[int, str, str]:
    if not given.is_file():
        beside = sorted(p.name for p in given.parent.glob("*.h5ad")) if given.parent.is_dir() else []
        raise UserError(f"--from {given}: there is no such file.{near(given.name, beside)}")
    with given.open("rb") as source, temporary.open("wb") as target:
        return _copied(iter(lambda: source.read(BLOCK), b""), target)


def _listed(screen: Published, opener: Callable[[str], BinaryIO]) -> Mapping[str, Any]:
    """What the archive says of the file: name, size, MD5, address."""
    address = API.format(article=screen.article)
    try:
        with opener(address) as stream:
            entries = json.loads(stream.read())
        found = [entry for entry in entries if entry["name"].lower().endswith(".h5ad")]
        exact = [entry for entry in found if entry["name"].lower() == screen.file]
        entry = (exact or found)[0]
        return {key: entry[key] for key in ("name", "size", "computed_md5", "download_url")}
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise RunFailed(_offline(screen, error)) from None
    except (ValueError, KeyError, TypeError, IndexError):
        raise RunFailed(f"{address} lists no .h5ad file as expected: fetch it by hand and give --from FILE") from None


def _download(
    screen: Published,
    listed: Mapping[str, Any],
    temporary: Path,
    tell: Callable[[str], None],
    opener: Callable[[str], BinaryIO],
) -> tuple[int, str, str]:
    address = str(listed["download_url"])
    if not address.startswith("https://"):
        raise RunFailed(f"{screen.page} gives the address {address!r}, which is not https: fetch it by hand")
    tell(f"{listed['name']}, {listed['size'] / 1e6:.0f} MB, from {address}")
    try:
        with opener(address) as source, temporary.open("wb") as target:
            return _copied(iter(lambda: source.read(BLOCK), b""), target)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise RunFailed(_offline(screen, error)) from None


def _copied(blocks: Iterable[bytes], target: BinaryIO) -> tuple[int, str, str]:
    """Size, SHA-256 and MD5 of what was written."""
    size, sha, md5 = 0, hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    for block in blocks:
        target.write(block)
        sha.update(block)
        md5.update(block)
        size += len(block)
    return size, sha.hexdigest(), md5.hexdigest()


def _offline(screen: Published, error: OSError) -> str:
    reason = getattr(error, "reason", error)
    return (
        f"figshare cannot be reached ({' '.join(str(reason).split()) or type(error).__name__}): download "
        f"{screen.file} from {screen.page} where there is a network, and give it with --from FILE"
    )
