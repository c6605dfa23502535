"""Chunks of events, as another program leaves them in the store."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mopsjobs.events.format import chunk_key
from support.cli import Clock, Ran

if TYPE_CHECKING:
    from datetime import datetime

    from mopsjobs.store.base import VersionedStore


def event_texts(ran: Ran) -> list[str]:
    """Return the texts of the events that a command printed as JSON lines."""
    return [event["text"] for event in ran.objects if "text" in event]


class Writer:
    """A program that leaves chunks of log lines, at times of the test's choosing."""

    def __init__(self, store: VersionedStore, clock: Clock, job_id: str = "job", source: str = "w") -> None:
        self._store = store
        self._clock = clock
        self._job_id = job_id
        self._source = source
        self._seq = 0
        self._chunk = 0

    def __call__(self, *texts: str, kind: str = "log", at: datetime | None = None, **fields: Any) -> str:
        lines = []
        moment = at or self._clock.now()
        for text in texts:
            event = {"at": f"{moment:%Y-%m-%dT%H:%M:%SZ}", "job_id": self._job_id, "kind": kind, "source": self._source}
            lines.append(json.dumps({**event, "seq": self._seq, "text": text, **fields}) + "\n")
            self._seq += 1
        where = chunk_key(moment, self._job_id, self._source, self._chunk)
        self._chunk += 1
        assert self._store.create_if_absent(where, "".join(lines).encode())
        return where
