"""The files of a bundle, read from its archive without unpacking it to disk."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from typing import NamedTuple

from mopsjobs.bundles.extraction import read_members

_CHUNK = 2**20


class BundleFile(NamedTuple):
    """A file or a link of a bundle."""

    name: str
    """Relative to the root of the bundle, with slashes."""
    size: int
    """Bytes of its content; 0 for a link."""
    sha256: str | None
    """The hash of its content; None for a link."""
    is_executable: bool
    target: str | None
    """Where a link points, relative to its directory; None for a file."""


def list_files(archive: bytes) -> list[BundleFile]:
    """Return the files and links of a bundle in the order of their names. Memory does not grow with their sizes.

    Raises:
        BundleError: if the archive is not that of a bundle; see `extraction.read_members`.
    """
    found = []
    for member, content in read_members(archive):
        if member.issym():
            found.append(BundleFile(member.name, 0, None, is_executable=False, target=member.linkname))
        elif content is not None:
            sha256, size = hashlib.sha256(), 0
            while data := content.read(_CHUNK):
                sha256.update(data)
                size += len(data)
            is_executable = bool(member.mode & 0o100)
            found.append(BundleFile(member.name, size, sha256.hexdigest(), is_executable, target=None))
    return sorted(found)


def read_files(archive: bytes, names: Collection[str], max_bytes: int) -> dict[str, bytes]:
    """Return the contents of some files of a bundle, of those alone that have at most `max_bytes`.

    Raises:
        BundleError: if the archive is not that of a bundle; see `extraction.read_members`.
    """
    return {
        member.name: content.read()
        for member, content in read_members(archive)
        if content is not None and member.name in names and member.size <= max_bytes
    }
