"""The journal of attempts: files of a shard on this machine, from which chunks of the ledger are made.

A file has the attempts of one chunk, `<run>-<number>.jsonl`. A line is a JSON list of attempts that were written
together, each a list in the order of the fields of `Attempt`. A later attempt replaces an equal one before it. An
attempt that begins is written as `lost`: so it is if its end does not follow. A task's end is written before its
outputs are sent.

A killed runner leaves its files. The next run of the shard reads them and sends their chunks under their own keys. The
system keeps lines that were written, unless it crashes itself: nothing is synced to disk, since that takes as long as
many tasks.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mopsjobs.ledger.attempt import Attempt, AttemptError, Outcome
from mopsjobs.ledger.scalars import Scalars
from mopsjobs.utils.files import make_directory, private_opener

log = logging.getLogger(__name__)

MAX_FILE_BYTES = 64 * 1024 * 1024
"""Of a file that is read."""

_NAME = re.compile(r"(?P<run>[0-9a-f]{1,32})-(?P<number>\d{6,12})\.jsonl", re.ASCII)

_encode = json.JSONEncoder(separators=(",", ":")).encode


class Entry(NamedTuple):
    """An attempt in the journal, with the scalars of its outputs."""

    attempt: Attempt
    scalars: Scalars | None = None
    """None if its outputs were not searched for scalars, or have too many for a chunk."""

    @property
    def identity(self) -> tuple[int, int]:
        """Return the number of its task and of the try: what identifies an attempt of a run."""
        return self.attempt.task, self.attempt.attempt


class JournalFile:
    """The file of one chunk. It is created with its first line."""

    def __init__(self, path: Path) -> None:
        """Name the file. Nothing is written yet."""
        self.path = path
        self._file: int | None = None

    def append(self, entries: Iterable[Entry], *, begins_line: bool = False) -> None:
        """Write these attempts at once, as one line.

        Args:
            entries: the attempts.
            begins_line: whether the last line of the file may be incomplete.

        Raises:
            OSError: if the disk is full, or the directory cannot be written. The last line may then be incomplete.
        """
        text = _encode([[*attempt, scalars] for attempt, scalars in entries])
        line = b"\n" * begins_line + text.encode("ascii") + b"\n"
        if self._file is None:
            make_directory(self.path.parent)
            self._file = private_opener(str(self.path), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        if os.write(self._file, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Close the file; `append` opens it again. Closing twice is harmless."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def remove(self) -> None:
        """Remove the file, if it exists and can be removed."""
        with contextlib.suppress(OSError):
            self.close()
            self.path.unlink(missing_ok=True)


class LeftChunk(NamedTuple):
    """The attempts that a killed run left in one file."""

    run: str
    number: int
    file: JournalFile
    entries: list[Entry]


def journal_path(directory: Path, run: str, number: int) -> Path:
    """Return the file of a chunk."""
    return directory / f"{run}-{number:06d}.jsonl"


def settle_left(directory: Path, is_complete: Callable[[int], bool], own_run: str) -> None:
    """Note in the files that killed runs left which outputs did not get into the store: those attempts are `lost`.

    Once other attempts at the tasks have begun, outputs in the store may be of those.

    Args:
        directory: where the files are.
        is_complete: returns whether the outputs of a task, by its number, are in the store or in the outbox.
        own_run: the run that calls; its files are left out.

    Raises:
        OSError: if a file cannot be written.
    """
    for files in _find_files(directory, own_run).values():
        for _, path in files:
            lost = [
                Entry(entry.attempt._replace(outcome=Outcome.LOST, output_bytes=None))
                for entry in _read_file(path).values()
                if entry.attempt.outcome is Outcome.SUCCEEDED and not is_complete(entry.attempt.task)
            ]
            if lost:
                file = JournalFile(path)
                file.append(lost, begins_line=True)
                file.close()


def read_left(directory: Path, own_run: str) -> Iterator[LeftChunk]:
    """Yield the chunks that killed runs left. Lines that cannot be read are left out.

    An attempt whose end was not seen is `lost`.

    Args:
        directory: where the files are. Those that come later are not read.
        own_run: the run that calls; its files are left out.
    """
    return _read_runs(_find_files(directory, own_run))


def _find_files(directory: Path, own_run: str) -> Mapping[str, list[tuple[int, Path]]]:
    """Return number and path of the files of each run."""
    files: defaultdict[str, list[tuple[int, Path]]] = defaultdict(list)
    with contextlib.suppress(OSError):
        for path in directory.iterdir():
            if (match := _NAME.fullmatch(path.name)) is not None and match["run"] != own_run:
                files[match["run"]].append((int(match["number"]), path))
    return files


def _read_runs(files: Mapping[str, list[tuple[int, Path]]]) -> Iterator[LeftChunk]:
    for run in sorted(files):
        # The last file comes first: an attempt that began in one file and ended in a later one is in both.
        later: set[tuple[int, int]] = set()
        for number, path in sorted(files[run], reverse=True):
            entries = _read_file(path)
            own = [entry for identity, entry in entries.items() if identity not in later]
            yield LeftChunk(run, number, JournalFile(path), own)
            later |= entries.keys()


def _read_file(path: Path) -> dict[tuple[int, int], Entry]:
    entries: dict[tuple[int, int], Entry] = {}
    try:
        with open(path, "rb") as file:
            lines = file.read(MAX_FILE_BYTES).split(b"\n")
    except OSError as error:
        log.info("%s cannot be read: %s", path, error)
        return {}
    for line in lines:
        with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
            for fields in json.loads(line):
                entry = _parse(fields)
                entries.pop(entry.identity, None)  # so that the order is that of the ends
                entries[entry.identity] = entry
    return entries


def _parse(fields: list[Any]) -> Entry:
    """Return the entry of a list.

    Raises:
        ValueError, TypeError: if it is not one.
    """
    *values, error, output_bytes, scalars = fields
    task, attempt, outcome, *measured = values
    if not (type(task) is int and type(attempt) is int and task >= 0 and attempt >= 1):
        raise ValueError("invalid attempt")
    reason = None if error is None else AttemptError(*error)
    found = Attempt._make([task, attempt, Outcome(outcome), *measured, reason, output_bytes])
    return Entry(found, scalars if isinstance(scalars, dict) else None)
