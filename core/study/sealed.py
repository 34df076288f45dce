"""Files that appear whole, once, and are checked whenever they are read.

A sealed file is one line of JSON, `{"body": ..., "sha256": "..."}`, whose digest is that of the body's bytes. Each
byte of it is either compared or hashed: one that was cut short, emptied or changed in a bit is never taken for whole.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import sync_folder
from core.identity import canonical_json

_HEAD = b'{"body":'
_MIDDLE = b',"sha256":"'
_TAIL = b'"}\n'
_END = len(_MIDDLE) + 64 + len(_TAIL)
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK}
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FORBIDDEN = {errno.EROFS, errno.EACCES, errno.EPERM}


class TableError(UserError):
    """A directory of trials that cannot be read or written; the text begins with the error's name, `E-...`."""


class Damaged(ValueError):
    """A sealed file whose bytes are not those that were written."""


def seal(body: Any) -> bytes:
    """The bytes of a sealed file.

    Raises:
        ValueError: nan, infinity, or a type that JSON does not know.
    """
    text = canonical_json(body).encode()
    return _HEAD + text + _MIDDLE + hashlib.sha256(text).hexdigest().encode() + _TAIL


def unseal(data: bytes) -> Any:
    """The body of a sealed file's bytes.

    Raises:
        Damaged: they are not exactly the bytes that `seal` gives.
    """
    text, end = data[len(_HEAD) : -_END], data[-_END:]
    whole = _MIDDLE + hashlib.sha256(text).hexdigest().encode() + _TAIL
    if not data.startswith(_HEAD) or end != whole:
        raise Damaged(f"{len(data)} bytes that are no whole sealed file")
    return json.loads(text)


def load(path: Path) -> Any:
    """The body of a sealed file.

    Raises:
        FileNotFoundError: it is not there.
        Damaged: it is there and cannot be trusted.
        TableError: it is there and cannot be read.
    """
    with told(path):
        data = path.read_bytes()
    try:
        return unseal(data)
    except Damaged as error:
        raise Damaged(f"{path}: {error}") from None


def publish(path: Path, data: bytes) -> bool:
    """Make `data` appear at `path`, whole and on disk, unless something is there already; True where it is ours.

    Raises:
        TableError: the disk is full, the folder cannot be written, or its file system has no hard links.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with told(path):
            _write(temporary, data)
        won = _link(temporary, path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    with told(path):
        sync_folder(path.parent)
    return won


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Name what the operating system reports about `path`; a file that is not there stays `FileNotFoundError`.

    Raises:
        TableError: E-DISK (full or over quota), E-READONLY (not permitted) or E-IO (anything else).
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        why = error.strerror or str(error)
        if error.errno in _FULL:
            text = f"E-DISK: {path}: {why}. Free some space and give the same command again; no finished trial is lost"
        elif error.errno in _FORBIDDEN:
            text = f"E-READONLY: {path}: {why}. Make the folder writable for this user, or choose another with -o"
        else:
            text = f"E-IO: {path}: {why}. Look after the disk and give the same command again"
        raise TableError(text) from error


def _write(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(handle, rest) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def _link(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        # NFS may repeat a request whose answer was lost; the count of links tells whether the first one went through.
        return temporary.stat().st_nlink == 2
    except OSError as error:
        if error.errno not in _NO_LINKS:
            with told(path):
                raise
        raise TableError(
            f"E-LINK: {path}: the file system cannot make hard links ({error.strerror}), by which runners share a "
            "study safely. Put the study on one that can (ext4, xfs, apfs, nfs), with -o"
        ) from error
    return True
