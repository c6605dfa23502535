"""The directory into which the outputs of a job are downloaded. Their names come from the registry and are not trusted.

Only new files are written, below real directories, never through a symbolic link. A file that is there is replaced only
if its content is known to come from the job.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from mopsjobs.utils.files import atomic_file

MAX_SEGMENT_BYTES = 255
"""How long the name of a file may be on the usual file systems."""


_DRAFT = ".mops-jobs"  # an output's name never begins with a dot, so no output is written over by a draft


_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


# Without O_NONBLOCK a pipe in the place of a file would be waited at.
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class RefusedFileError(Exception):
    """A file that must not be written. The message is the reason."""


def is_safe_segment(segment: str) -> bool:
    """Return True for what may name a file or a directory: printable, not hidden, no path."""
    return (
        segment.isprintable()
        and not segment.startswith(".")
        and "/" not in segment
        and 0 < len(segment.encode()) <= MAX_SEGMENT_BYTES
    )


class OutputDirectory:
    """A directory that the user has named. Links on the way to it are the user's, and are followed.

    Args:
        path: the directory. It is made at the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, name: str, content: bytes, earlier: Iterable[bytes]) -> None:
        """Write an output, unless it is there.

        Args:
            name: path below the directory. Each segment is safe.
            content: what is to be in the file.
            earlier: contents that the job has had by this name. Of a file with one of them, no copy is lost.

        Raises:
            RefusedFileError: if a link or another file is in its place.
            OSError: if it cannot be written.
        """
        *segments, last = name.split("/")
        self._make()
        with _opened(self.path, segments) as directory:
            with _file_at(last, directory) as there:
                if there is not None:
                    if _holds(there, content):
                        return
                    if not any(_holds(there, one) for one in earlier):
                        raise RefusedFileError(f"{self.path / name} has other content: remove it, or name another DIR")
            with atomic_file(str(self.path / _DRAFT), 0o666, is_durable=False) as beside:
                Path(beside).write_bytes(content)
                os.replace(beside, last, dst_dir_fd=directory)

    def replace(self, name: str, beginning: bytes, write: Callable[[Path], None]) -> None:
        """Write a file that changes with each download.

        Args:
            name: its name in the directory.
            beginning: how it begins. A file that begins otherwise is not from mops-jobs.
            write: writes the content to a path.

        Raises:
            RefusedFileError: if a link or another file is in its place.
            OSError: if it cannot be written.
        """
        with _opened(self.path, []) as directory:
            with _file_at(name, directory) as there:
                if there is not None and there.read(len(beginning)) != beginning:
                    raise RefusedFileError(f"{self.path / name} is another file: remove it, or name another DIR")
            with atomic_file(str(self.path / _DRAFT), 0o666, is_durable=False) as beside:
                write(Path(beside))
                os.replace(beside, name, dst_dir_fd=directory)

    def _make(self) -> None:
        """Make the directory if it is new. git, and `submit --auto` from above it, then leave out what is in it."""
        if not self.path.exists():
            self.path.mkdir(parents=True)
            text = "# Outputs, not code: so that submit --auto does not pack them.\n*\n"
            (self.path / ".gitignore").write_text(text)


@contextlib.contextmanager
def _opened(top: Path, segments: list[str]) -> Iterator[int]:
    """Open a directory below `top`, and make what is missing on the way. Each step starts from the one before."""
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
        yield directory
    finally:
        os.close(directory)


@contextlib.contextmanager
def _file_at(name: str, directory: int) -> Iterator[BinaryIO | None]:
    """Open the file of that name; None if there is none."""
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        yield None
        return
    if not stat.S_ISREG(mode):
        raise RefusedFileError(f"{name} is there, and is not a regular file")
    with open(os.open(name, _OPEN_FILE, dir_fd=directory), "rb") as file:
        yield file


def _holds(file: BinaryIO, content: bytes) -> bool:
    if os.fstat(file.fileno()).st_size != len(content):
        return False
    file.seek(0)
    return file.read(len(content) + 1) == content
