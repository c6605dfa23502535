"""The directory into which the outputs of a job are downloaded. Names from the registry are not trusted.

Only new files are written, below real directories, never through a symbolic link. An existing file is replaced only if
its content is known to come from the job.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, TypeVar

from mopsjobs.utils.files import FILE_FLAGS, NO_WAIT, atomic_file

T = TypeVar("T")

MAX_SEGMENT_BYTES = 255
"""How long the name of a file may be on the usual file systems."""

_DRAFT = ".mops-jobs"  # no output begins with a dot, so a draft never replaces one

_HAS_DIRECTORIES = os.open in os.supports_dir_fd
"""Whether the system opens directories, so that none can be replaced meanwhile. Windows does not."""

_OPEN_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)

_RESERVED = frozenset("/" if os.sep == "/" else '<>:"/\\|?*')
"""Characters that no name may have: on Windows, some of them lead to other places."""


class RefusedFileError(Exception):
    """A file that must not be written. The message is the reason."""


def is_safe_segment(segment: str) -> bool:
    """Return True if a segment can name a file or a directory: printable, not hidden, without a slash."""
    return (
        segment.isprintable()
        and not segment.startswith(".")
        and not _RESERVED & {*segment}
        and 0 < len(segment.encode()) <= MAX_SEGMENT_BYTES
    )


class OutputDirectory:
    """A directory that the user has named. Symbolic links on the way to it are followed.

    Args:
        path: the directory. The first write creates it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, content: bytes, earlier: Iterable[bytes]) -> None:
        """Write an output, unless the file has its content already.

        Args:
            name: path below the directory. Each segment is safe.
            content: the content of the file.
            earlier: earlier contents of this output. A file with one of them is replaced.

        Raises:
            RefusedFileError: if a link or another file is in its place.
            OSError: if it cannot be written.
        """
        *segments, last = name.split("/")
        self._make()
        with _open_directory(self.path, segments) as (directory, inside):
            with _open_file(inside + last, directory) as existing:
                if existing is not None:
                    if _holds(existing, content):
                        return
                    if not any(_holds(existing, version) for version in earlier):
                        raise RefusedFileError(
                            f"{self.path / name} has other content: remove it, or use another DIRECTORY"
                        )
            with atomic_file(str(self.path / _DRAFT), 0o666, is_durable=False) as draft:
                Path(draft).write_bytes(content)
                os.replace(draft, inside + last, dst_dir_fd=directory)

    def read_beginning(self, name: str, size: int) -> bytes:
        """Return the first bytes of a file in the directory; none if there is no regular file of that name."""
        try:
            with (
                _open_directory(self.path, []) as (directory, inside),
                _open_file(inside + name, directory) as existing,
            ):
                return b"" if existing is None else existing.read(size)
        except (OSError, RefusedFileError):  # the first write has the reason
            return b""

    def replace(self, name: str, beginning: bytes, write: Callable[[Path], T]) -> T:
        """Write a file that changes with each download. Return what `write` returns.

        Args:
            name: its name in the directory.
            beginning: how it begins. A file that begins otherwise is not from mops-jobs.
            write: writes the content to a path.

        Raises:
            RefusedFileError: if a link or another file is in its place.
            OSError: if it cannot be written.
        """
        with _open_directory(self.path, []) as (directory, inside):
            with _open_file(inside + name, directory) as existing:
                if existing is not None and existing.read(len(beginning)) != beginning:
                    raise RefusedFileError(f"{self.path / name} is another file: remove it, or use another DIRECTORY")
            with atomic_file(str(self.path / _DRAFT), 0o666, is_durable=False) as draft:
                result = write(Path(draft))
                os.replace(draft, inside + name, dst_dir_fd=directory)
                return result

    def _make(self) -> None:
        """Create the directory, with a `.gitignore` that keeps the outputs out of git and of `submit --auto`."""
        if not self.path.exists():
            self.path.mkdir(parents=True)
            text = "# Outputs, not code: so that submit --auto does not pack them.\n*\n"
            (self.path / ".gitignore").write_text(text)


@contextlib.contextmanager
def _open_directory(top: Path, segments: list[str]) -> Iterator[tuple[int | None, str]]:
    """Open a directory below `top`, and create missing ones on the way. Each step starts from the one before.

    Yields:
        The open directory, and what to write before a name in it. On Windows: None, and its path.
    """
    if not _HAS_DIRECTORIES:
        for place in range(1, len(segments) + 1):
            path = top.joinpath(*segments[:place])
            path.mkdir(exist_ok=True)
            if path.is_symlink():
                raise RefusedFileError(f"{path} is not a directory")
        yield None, str(top.joinpath(*segments)) + os.sep
        return
    directory = os.open(top, _OPEN_DIRECTORY)
    try:
        for place, segment in enumerate(segments, 1):
            with contextlib.suppress(FileExistsError):
                os.mkdir(segment, dir_fd=directory)
            if not stat.S_ISDIR(os.stat(segment, dir_fd=directory, follow_symlinks=False).st_mode):
                raise RefusedFileError(f"{top.joinpath(*segments[:place])} is not a directory")
            inner = os.open(segment, _OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = inner
        yield directory, ""
    finally:
        os.close(directory)


@contextlib.contextmanager
def _open_file(name: str, directory: int | None) -> Iterator[BinaryIO | None]:
    """Open the file with this name; None if there is none."""
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        yield None
        return
    if not stat.S_ISREG(mode):
        raise RefusedFileError(f"{name} is not a regular file")
    with open(os.open(name, os.O_RDONLY | FILE_FLAGS | NO_WAIT, dir_fd=directory), "rb") as file:
        yield file


def _holds(file: BinaryIO, content: bytes) -> bool:
    if os.fstat(file.fileno()).st_size != len(content):
        return False
    file.seek(0)
    return file.read(len(content) + 1) == content
