"""The files of a run: where its cache is, and whether the file of an embedded registry is missing or lost.

A lost file is an outage, as when its disk is not mounted. A second file in its place would take writes that disappear
when the disk is back. Only the cache knows whether there were jobs (docs/decisions/0006-registry-identity.md).
"""

from __future__ import annotations

import contextlib
import os

from mopsjobs.app.run.config import NO_HOME_ORIGIN, Settings
from mopsjobs.cache.database import is_emptied
from mopsjobs.console.printer import Printer
from mopsjobs.errors import StoreUnavailableError, command_line
from mopsjobs.utils import user_dirs
from mopsjobs.utils.sqlite_file import file_identity
from mopsjobs.utils.times import json_time

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from mopsjobs.store.base import VersionedStore


FILE_CLOCK_SECONDS = 2.0
"""The coarsest time of change that a file system notes, that of FAT."""

WAL_SEPARATOR = " "
"""Between the states of the file and of its WAL."""


class CacheLocation:
    """The path of the cache, decided at its first use: deciding may make a directory and print a note."""

    def __init__(self, settings: Settings, out: Printer) -> None:
        self._settings = settings
        self._out = out
        self._path: str | None = None

    @property
    def path(self) -> str:
        """Return the path in the settings, or one in a private directory if there is no writable home.

        A cache in a home that cannot be written is used: it can be read.
        """
        if self._path is None:
            path, origin = self._settings.cache.value, self._settings.cache.origin
            is_lost = self.is_default and not os.path.exists(path)
            if origin == NO_HOME_ORIGIN or (is_lost and not user_dirs.can_be_created(os.path.dirname(path))):
                path = os.path.join(user_dirs.make_temporary_directory(), os.path.basename(path))
                self._out.note(f"There is no writable home; the cache is {path}")
            self._path = path
        return self._path

    @property
    def is_default(self) -> bool:
        """Return whether mops-jobs chose the path, so that only a cache can have been there."""
        return self._settings.cache.origin == "default"


class EmbeddedRegistry:
    """The registry of a run if it is embedded; a remote registry is never missing here."""

    def __init__(self, settings: Settings, cache: CacheLocation, out: Printer) -> None:
        self._settings = settings
        self._cache = cache
        self._out = out
        self.notes_missing = True
        """Whether to note that the registry is missing; at most one note a run."""
        self.accepts_loss = False
        """Whether a lost registry counts as new: `sync --full` says so."""

    @property
    def path(self) -> str | None:
        """Return the path of its file, which may not exist yet; None if the registry is elsewhere."""
        from mopsjobs.store.urls import sqlite_path

        url = self._settings.registry.value
        return sqlite_path(url) if url.startswith("sqlite:") else None

    def missing_path(self) -> str | None:
        """Return its path if there is no file, be it lost, not created yet, or mistyped."""
        path = self.path
        with contextlib.suppress(OSError):  # the error appears when the file is opened
            return path if path is not None and file_identity(path) is None else None
        return None

    def file_state(self, now: datetime) -> str:
        """Return what differs after each write to its file; empty if that cannot be told.

        Every write of SQLite goes to the file or to the WAL beside it, and changes the size or the time of one of them.
        The clock of a file system is coarse, so a write just now may be followed by one with the same time. A copy that
        is restored may have size and time of the original, but not the time at which the file system changed its entry.

        Args:
            now: the time, in UTC.
        """
        if (path := self.path) is None:
            return ""
        path = os.path.realpath(path)
        states = []
        with contextlib.suppress(OSError):  # the error appears when the file is opened
            states.append(os.stat(path))
            with contextlib.suppress(FileNotFoundError):
                if (wal := os.stat(path + "-wal")).st_size:  # an empty one is left by a reader
                    states.append(wal)
            if max(one.st_mtime for one in states) <= now.timestamp() - FILE_CLOCK_SECONDS:
                return WAL_SEPARATOR.join(
                    f"{one.st_dev}:{one.st_ino}:{one.st_size}:{one.st_mtime_ns}:{one.st_ctime_ns}" for one in states
                )
        return ""

    def state_to_note(self, store: VersionedStore, now: datetime) -> str | None:
        """Return the state of its file for a sync that begins now; None if the registry is elsewhere.

        It is empty if it cannot be told, or if readers may not see all that the file has.
        A write is in the WAL before the disk confirms it, and readers see it after that. In between, a sync would miss
        it, and the files would not change again.

        Args:
            store: the store of the registry.
            now: the time, in UTC.
        """
        if self.path is None:
            return None
        from mopsjobs.store.sqlite.store import SQLiteVersionedStore

        state = self.file_state(now)
        if WAL_SEPARATOR in state and isinstance(store, SQLiteVersionedStore) and store.has_writer():
            return ""
        return state

    def notes_if_unchanged(self, notes: Mapping[str, str], now: datetime) -> dict[str, str]:
        """Return the notes of a cache as of now, if its file has not changed since the last sync; else none.

        Args:
            notes: what the cache notes about itself.
            now: the time, in UTC.
        """
        state = notes.get("registry_file")
        if not state or notes.get("last_error") or self.file_state(now) != state:
            return {}
        return {**notes, "synced_at": json_time(now), "full_synced_at": json_time(now)}

    def evidence(self) -> str | None:
        """Return what the cache says of a missing registry: that it had jobs; None if nothing says so."""
        from mopsjobs.cache.sync.identity import evidence_of_registry

        return evidence_of_registry(self._cache.path, self._settings.registry_id, is_default=self._cache.is_default)

    def needs_evidence(self) -> bool:
        """Return whether a loss would not be noticed, since no command here has listed the registry so far.

        A cache that the user named may be meant for another registry. A cache without a home is not made for this.
        """
        cache = self._settings.cache.value
        can_be_made = self._cache.is_default and user_dirs.can_be_created(os.path.dirname(cache))
        return self.path is not None and can_be_made and self.evidence() is None

    def note_missing(self) -> None:
        """Print once that the registry is not there: an empty listing alone would hide a mistyped path."""
        if not self.notes_missing or self._settings.registry.origin == "default":
            return
        if (path := self.missing_path()) is not None and self.evidence() is None:
            self.notes_missing = False
            beside = "" if os.path.isdir(os.path.dirname(path)) else ", nor its directory"
            made = "both" if beside else "it"
            self._out.note(f"There is no registry at {path} yet{beside}; the first job makes {made}.")

    def refuse_lost(self) -> None:
        """Refuse to treat a lost registry as a new one.

        Raises:
            StoreUnavailableError: if the cache knows jobs of it, or cannot tell.
        """
        evidence, path = self.evidence(), self.missing_path()  # in this order: another program may create it meanwhile
        if evidence is not None and path is not None and not self.accepts_loss:
            raise StoreUnavailableError(
                f"The registry {path} is gone: {evidence}.",
                hint=f"Mount its disk, or restore the file. To begin a new one there: {command_line('sync --full')}",
                sent=False,
            )

    def protect_emptied_cache(self) -> None:
        """Refuse a lost registry before an emptied cache is filled, since the new cache would not know of the loss.

        Raises:
            StoreUnavailableError: if the registry is lost; see `refuse_lost`.
        """
        if is_emptied(self._cache.path):
            self.refuse_lost()
