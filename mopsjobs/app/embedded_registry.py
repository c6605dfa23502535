"""An embedded registry as a file of this machine: if it is not there, was it never made, or is it gone?

Gone, it is an outage, as when its disk is not mounted: what is written to a second one is lost to everybody as soon as
that is mended. Only the cache can tell, so it is not begun anew meanwhile, and made by the first write.
"""

from __future__ import annotations

import contextlib
import os

from mopsjobs.app.config import Settings
from mopsjobs.cache.database import is_emptied
from mopsjobs.console.printer import Printer
from mopsjobs.errors import StoreUnavailableError
from mopsjobs.utils import user_dirs
from mopsjobs.utils.sqlite_file import file_identity

TYPE_CHECKING = False  # typing itself costs 3 ms, on the one path that must be instant

if TYPE_CHECKING:
    from collections.abc import Callable


class EmbeddedRegistry:
    """The registry of a run, where it is embedded; of any other, nothing is ever missing."""

    def __init__(self, settings: Settings, cache_path: Callable[[], str], out: Printer) -> None:
        self._settings = settings
        self._cache_path = cache_path
        self._out = out
        self.tells_missing = True
        """Whether to say that the registry that was asked for is not there; at most once."""
        self.is_believed_missing = False
        """Whether one that is not there is empty, and not gone."""

    @property
    def path(self) -> str | None:
        """Where it is, or will be; None where the registry is elsewhere."""
        from mopsjobs.store.urls import sqlite_path

        url = self._settings.registry.value
        return sqlite_path(url) if url.startswith("sqlite:") else None

    def missing(self) -> str | None:
        """Its path, if there is no such file; what a mistyped path looks like, too."""
        path = self.path
        with contextlib.suppress(OSError):  # where it cannot be told, whoever opens it says why
            return path if path is not None and file_identity(path) is None else None
        return None

    def trace(self) -> str | None:
        """Of one that is not there: what says that it was, by the cache; None where nothing does."""
        from mopsjobs.cache.sync.identity import evidence_of_registry

        is_default = self._settings.cache.origin == "default"
        return evidence_of_registry(self._cache_path(), self._settings.registry_id, is_default=is_default)

    def needs_trace(self) -> bool:
        """Whether nothing would tell of it, should it be lost: nobody has listed it here so far.

        A cache that the user has named may be meant for another registry; and one that has no home to be in is not
        made for that.
        """
        cache = self._settings.cache
        can_be = cache.origin == "default" and user_dirs.can_be_created(os.path.dirname(cache.value))
        return self.path is not None and can_be and self.trace() is None

    def tell_missing(self) -> None:
        """Say, once, that the registry that was asked for is not there: an empty listing alone would hide a typo."""
        if not self.tells_missing or self._settings.registry.origin == "default":
            return
        if (path := self.missing()) is not None and self.trace() is None:
            self.tells_missing = False
            beside = "" if os.path.isdir(os.path.dirname(path)) else ", nor its directory"
            made = "both" if beside else "it"
            self._out.note(f"There is no registry at {path} yet{beside}; the first job makes {made}.")

    def refuse_lost(self) -> None:
        """Refuse to take one for new that was there, by what the cache knows of it.

        Raises:
            StoreUnavailableError: there was one, or nobody can tell.
        """
        trace, path = self.trace(), self.missing()  # in this order: somebody may make it meanwhile
        if trace is not None and path is not None and not self.is_believed_missing:
            raise StoreUnavailableError(
                f"The registry {path} is gone: {trace}.",
                hint="Is its disk mounted? To begin a new one there: mops-jobs sync --full",
                sent=False,
            )

    def keep_emptied(self) -> None:
        """Refuse a lost registry before a cache that somebody has emptied is begun anew, and knows of nothing.

        Raises:
            StoreUnavailableError: as `refuse_lost`.
        """
        if is_emptied(self._cache_path()):
            self.refuse_lost()
