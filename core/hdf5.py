"""A look at a file before the HDF5 library reads it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from core.errors import UserError

PROBE_SECONDS = 60.0
"""how long a look at a file's structure may take; a whole file needs well under one"""
PROBE = """
import sys, h5py
def look(name, node):
    for key in node.attrs:
        node.attrs.get(key)
    if isinstance(node, h5py.Dataset):
        node.shape, node.dtype, node.chunks
with h5py.File(sys.argv[1], "r") as file:
    look("/", file)
    file.visititems(look)
"""


def probe(path: Path) -> None:
    """Walk a file's structure in a process of its own: damage can send the HDF5 library round in circles, or crash it.

    What it can say in words is left to the reading itself.

    Raises:
        UserError: the walk does not end in time, or takes its process down.
    """
    command, null = [sys.executable, "-P", "-c", PROBE, str(path)], subprocess.DEVNULL
    try:
        code = subprocess.run(command, stdin=null, stdout=null, stderr=null, timeout=PROBE_SECONDS).returncode
    except subprocess.TimeoutExpired:
        how = f"looking through it did not end within {PROBE_SECONDS:g} s"
    else:
        if code >= 0:
            return
        how = f"the HDF5 library crashed on it (signal {-code})"
    raise UserError(
        f"{path.name} cannot be read as an h5ad file, {how}: it is damaged; copy or download it again, or save it anew "
        "with adata.write_h5ad(...)"
    )
