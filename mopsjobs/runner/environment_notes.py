"""Note the environments of the models of a run beside the ledger, by a thread of its own; see ledger/environment.py.

No job waits for a note, or fails because of it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from mopsjobs.errors import StoreUnavailableError
from mopsjobs.ledger.environment import encode_environment, environment_of_worker
from mopsjobs.store.base import VersionedStore

log = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0
"""How long the end of a run waits for a description, at most. It takes a tenth of a second."""


class EnvironmentNotes:
    """The notes of one run, each environment once."""

    def __init__(self, job_id: str, store: VersionedStore, outbox: VersionedStore) -> None:
        """Prepare to note.

        Args:
            job_id: the job.
            store: where the notes go. They do not go by the sender of outputs: what it refuses ends the job.
            outbox: where a note waits if the store does not answer.
        """
        self._job_id = job_id
        self._store = store
        self._outbox = outbox
        self._keys: set[str] = set()
        self._threads: list[threading.Thread] = []

    def describe(self, describe: Callable[[], object]) -> None:
        """Call a function in a thread, and note what it returns.

        Args:
            describe: returns what an interpreter says about itself; None if it says nothing.
        """
        thread = threading.Thread(target=lambda: self._note(describe()), daemon=True)
        self._threads.append(thread)
        thread.start()

    def note(self, answer: object) -> None:
        """Note what an interpreter says about itself, unless that is noted already."""
        self.describe(lambda: answer)

    def close(self) -> None:
        """Wait a moment for the notes that are under way. Closing twice is harmless."""
        until = time.monotonic() + CLOSE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _note(self, answer: object) -> None:
        if answer is None:
            return
        try:
            key, value = encode_environment(self._job_id, environment_of_worker(answer))
            if key not in self._keys:
                self._keys.add(key)
                try:
                    self._store.create_if_absent(key, value)
                except StoreUnavailableError:
                    self._outbox.create_if_absent(key, value)
        except Exception as error:  # noqa: BLE001 - no error of a note may stop the job
            log.info("The environment of the model is not noted: %s", error)
