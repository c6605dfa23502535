"""Tell which file system holds a path, and whether machines share it across a network."""

from __future__ import annotations

import os
import re

NETWORK_FILE_SYSTEMS = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "afs",
    "9p",
    "fuse.sshfs",
    "ceph",
    "fuse.ceph",
    "lustre",
    "gpfs",
    "beegfs",
    "fhgfs",
    "pvfs2",
    "panfs",
    "wekafs",
    "glusterfs",
    "fuse.glusterfs",
)
"""SQLite's WAL needs shared memory between processes. These file systems do not have it across machines."""

MOUNTS = "/proc/self/mounts"


def network_file_system(path: str) -> str | None:
    """Return the type of the network file system that holds a path, which need not exist; None if it holds none."""
    kind = _file_system(path)
    return kind if kind in NETWORK_FILE_SYSTEMS else None


def _file_system(path: str) -> str | None:
    """Return the type of the file system that holds `path`; None on a system without /proc/self/mounts."""
    try:
        with open(MOUNTS, encoding="utf-8", errors="replace") as file:
            mounts = [line.split(" ")[1:3] for line in file]
    except OSError:
        return None
    real = os.path.realpath(path) + "/"
    holding = [(len(point), kind) for point, kind in mounts if real.startswith(_decode(point).rstrip("/") + "/")]
    # A later mount covers an earlier one at the same point, as that of an automounter.
    return max(reversed(holding), key=lambda mount: mount[0], default=(0, None))[1]


def _decode(point: str) -> str:
    """Return a mount point whose blanks, tabs, newlines and backslashes are written as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), point)
