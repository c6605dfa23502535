"""Note the environments of the models of a run beside the ledger, by a thread of its own; see ledger/environment.py.

No job waits for a note, or fails because of it.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from mopsjobs.ledger.environment import encode_environment, environment_of_worker
from mopsjobs.runner.output_sender import OutputSender

log = logging.getLogger(__name__)

CLOSE_SECONDS = 5.0
"""How long the end of a run waits for a description, at most. It takes a tenth of a second."""


class EnvironmentNotes:
    """The notes of one run, each environment once. Thread-safe, except for `close`."""

    def __init__(self, job_id: str, sender: OutputSender) -> None:
        """Prepare to note.

        Args:
            job_id: the job.
            sender: sends the notes to the store, or keeps them in the outbox.
        """
        self._job_id = job_id
        self._sender = sender
        self._keys: set[str] = set()
        self._thread: threading.Thread | None = None

    def describe(self, describe: Callable[[], object]) -> None:
        """Call a function in a thread, and note what it returns.

        Args:
            describe: returns what an interpreter says about itself; None if it says nothing.
        """
        self._thread = threading.Thread(target=lambda: self.note(describe()), daemon=True)
        self._thread.start()

    def note(self, answer: object) -> None:
        """Note what an interpreter says about itself, unless that is noted already."""
        if answer is None:
            return
        try:
            key, value = encode_environment(self._job_id, environment_of_worker(answer))
            if key not in self._keys:
                self._keys.add(key)
                self._sender.put([(key, value)], lambda: None, lambda reason: log.info("%s", reason))
        except Exception as error:  # noqa: BLE001 - the runner's own thread meets an error of the sender too
            log.info("The environment of the model is not noted: %s", error)

    def close(self) -> None:
        """Wait a moment for a description that is under way. Closing twice is harmless."""
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
