"""Unpack an archive that is not trusted: it can neither lead out of its directory nor fill disk or memory.

The `filter="data"` of tarfile is not enough: Python 3.11 got it late, it has had holes, and it sets no limits. So
tarfile only reads the archive, and this module writes. It checks names and counts what it reads. It writes files first
and links last, so that no file is written through a link.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import shutil
import stat
import tarfile
import zlib
from collections.abc import Collection, Iterator
from typing import IO, NamedTuple

from mopsjobs.errors import EXIT_REFUSED, MopsJobsError

MAX_UNPACKED_BYTES = 4 * 2**30

MAX_FILES = 100_000

MAX_HEADER_BYTES = 2**20
"""The largest header between two files of an archive. A name takes at most 4 KiB; a hostile header has no bound."""

_CHUNK = 2**20


class BundleError(MopsJobsError):
    """A bundle that is not in the store, is damaged, or holds what no bundle may hold."""

    exit_code = EXIT_REFUSED


def leads_outside(name: str, target: str) -> bool:
    """Return True if a link with this name and `target` points out of the directory that `name` is relative to."""
    end = os.path.normpath(os.path.join(os.path.dirname(name), target))
    return not target or os.path.isabs(target) or end == ".." or end.startswith("../")


def extract(value: bytes, root: str, *, sync: bool = True) -> None:
    """Unpack a tar.gz into an empty directory, readable and writable by its owner only.

    Forbidden are paths and links that lead out, and members that are neither files, links nor directories. An archive
    has at most `MAX_FILES` members and `MAX_UNPACKED_BYTES`.

    Args:
        value: the archive.
        root: the directory.
        sync: whether each file is on disk when this returns.

    Raises:
        BundleError: if it is not a tar.gz, has forbidden content, exceeds a limit, or if writing fails.
    """
    directories = {""}
    links: list[tuple[str, str]] = []

    def make_directory(name: str) -> None:
        """Create a directory and those above it."""
        if name not in directories:
            make_directory(os.path.dirname(name))
            os.mkdir(os.path.join(root, name), 0o700)
            directories.add(name)

    with _translate_errors():
        for member, content in read_members(value):
            if len(directories) > MAX_FILES:
                raise BundleError(f"more than {MAX_FILES:,} files")
            if member.issym():
                links.append((member.name, member.linkname))
            elif content is None:
                make_directory(member.name)
            else:
                make_directory(os.path.dirname(member.name))
                _write_file(os.path.join(root, member.name), member, content, sync=sync)
        for name, _ in links:
            make_directory(os.path.dirname(name))
        for name, target in links:
            os.symlink(target, os.path.join(root, name))
        # Each link alone stays inside, but several may lead out together.
        real = os.path.realpath(root)
        for name, _ in links:
            if os.path.commonpath([real, os.path.realpath(os.path.join(real, name))]) != real:
                raise BundleError(f"the link {name!r} leads out of the bundle")


def _write_file(path: str, member: tarfile.TarInfo, content: IO[bytes], *, sync: bool) -> None:
    mode = 0o700 if member.mode & stat.S_IXUSR else 0o600
    with content, open(path, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as file:
        shutil.copyfileobj(content, file, _CHUNK)
        if sync:  # before the directory gets its name: a power cut must not leave incomplete code
            file.flush()
            os.fsync(file.fileno())


def read_members(value: bytes) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Yield the members of an archive in its order, each with its content if it is a file; see `extract`.

    The content can be read until the next member is asked for.

    Raises:
        BundleError: if `extract` would refuse the archive for anything but several links together.
    """
    total = 0
    with _translate_errors(), gzip.GzipFile(fileobj=io.BytesIO(value)) as packed:
        limited = _LimitedReader(packed)
        limited.allow(0)
        # One pass, without seeking: each member is read before the next one is searched for.
        with tarfile.open(fileobj=limited, mode="r|", encoding="utf-8", errors="surrogateescape") as tar:
            number = 0
            while (member := tar.next()) is not None:
                number += 1
                if number > MAX_FILES:
                    raise BundleError(f"more than {MAX_FILES:,} files")
                total += max(0, member.size)
                if total > MAX_UNPACKED_BYTES:
                    raise BundleError(f"more than {MAX_UNPACKED_BYTES // 2**20} MiB")
                _check_member(member)
                limited.allow(member.size)
                content = tar.extractfile(member) if member.isreg() else None
                yield member, content
                # What the caller left unread would count as a part of the next header.
                while content is not None and not content.closed and content.read(_CHUNK):
                    pass
                limited.allow(0)
                # tarfile keeps every header, and headers may be large.
                tar.members = []  # type: ignore[attr-defined]
                tar.pax_headers = {}


@contextlib.contextmanager
def _translate_errors() -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zlib.error, EOFError, ValueError, OSError, RecursionError) as error:
        raise BundleError(f"{type(error).__name__}: {error}") from None


class _LimitedReader(io.RawIOBase):
    """A stream that refuses to give more than its limit."""

    def __init__(self, inner: gzip.GzipFile) -> None:
        self._inner = inner
        self._left = 0

    def allow(self, count: int) -> None:
        self._left = count + MAX_HEADER_BYTES

    def read(self, size: int = -1) -> bytes:
        if self._left <= 0:
            raise BundleError(f"a header has more than {MAX_HEADER_BYTES // 2**20} MiB")
        data = self._inner.read(min(size, self._left))
        self._left -= len(data)
        return data


def _check_member(member: tarfile.TarInfo) -> None:
    name = member.name
    if name.startswith("/") or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise BundleError(f"the path {name[:200]!r} leads out of the bundle or is invalid")
    if member.issym():
        if leads_outside(name, member.linkname):
            raise BundleError(f"the link {name!r} leads out of the bundle")
    elif not (member.isdir() or (member.isreg() and not member.issparse())):
        raise BundleError(f"{name!r} is neither a file, a link nor a directory")


class BundleFile(NamedTuple):
    """A file or a link of a bundle."""

    name: str
    """Relative to the root of the bundle, with slashes."""
    size: int
    """Bytes of its content; 0 for a link."""
    sha256: str | None
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
