"""Where the cache of a run is."""

from __future__ import annotations

import os

from mopsjobs.app.run.config import NO_HOME_ORIGIN, Settings
from mopsjobs.console.printer import Printer
from mopsjobs.utils import user_dirs


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
