"""Made-up jobs: the same ones for the same number, and as real ones are in what costs time.

About one in a hundred is active, created within two days; the others ended some time in the last 30 days. A record of
mops-jobs has its history, an owner and labels, and every second one what the job used. A record of another program is
indented JSON of some 670 bytes, without them.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import random
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from mopsjobs.registry.job_state import FIELDS, JobState
from mopsjobs.store.base import Entry, VersionToken, WantsValues, always
from mopsjobs.utils.times import record_time

if TYPE_CHECKING:
    from pathlib import Path

    from bench.azurite import Azurite

SEED = 20260101
WRITERS = 4
OWNERS = ("ada", "grace", "edsger", "barbara", "donald", "frances", "tony", "leslie")
WAYS = (
    ("pending", "submitting", "scheduled", "running", "validating", "succeeded"),
    ("pending", "submitting", "scheduled", "running", "validating", "partial"),
    ("pending", "submitting", "scheduled", "running", "failed"),
    ("pending", "cancelled"),
)
WEIGHTS = (80, 5, 12, 3)
ACTIVE_WAYS = (WAYS[0][:1], WAYS[0][:3], WAYS[0][:4], WAYS[0][:5])
ACTIVE_SHARE = 0.01
MEASURED_SHARE = 0.5
"""Of the jobs that ran: these tell what they used."""

_THEIRS = FIELDS[: FIELDS.index("write_id")]


def states(count: int, now: datetime) -> Iterator[JobState]:
    """Yield that many jobs, in the order of their ids."""
    draw = random.Random(SEED)
    ids = sorted(f"job-{number:010x}" for number in draw.sample(range(16**10), count))
    for number, job_id in enumerate(ids):
        active = draw.random() < ACTIVE_SHARE or number == 0
        way = draw.choice(ACTIVE_WAYS) if active else draw.choices(WAYS, WEIGHTS)[0]
        at = now - timedelta(seconds=draw.uniform(7200, (2 if active else 30) * 86400))
        steps = []
        for status in way:
            steps.append({"status": status, "at": record_time(at), "id": f"{draw.getrandbits(64):016x}"})
            at += timedelta(seconds=draw.uniform(1, 1200))
        total = draw.choice((1, 20, 500, 2000))
        failed = way[-1] == "failed"
        cpu = round(draw.uniform(1, 900) * total, 2)
        is_measured = "running" in way and draw.random() < MEASURED_SHARE
        yield JobState(
            job_id=job_id,
            status=way[-1],
            created_at=str(steps[0]["at"]),
            updated_at=str(steps[-1]["at"]),
            k8s_name=f"{job_id}-runner",
            k8s_namespace="modelops-jobs",
            k8s_uid=f"{draw.getrandbits(128):032x}",
            tasks_total=total,
            tasks_completed=total if way[-1] == "succeeded" else draw.randrange(total),
            error_message="Task 17 ended with exit code 137: out of memory" if failed else None,
            error_code="OOM" if failed else None,
            results_path=f"results/{job_id}" if way[-1] in ("succeeded", "partial") else None,
            metadata={"study": f"calibration-{draw.randrange(40)}", "model": "sir", "n_replicates": 10},
            write_id=str(steps[-1]["id"]),
            revision=len(steps),
            transitions=tuple(steps),
            owner=draw.choice(OWNERS),
            labels={"exp": str(draw.randrange(50)), "team": "epi"},
            engine="kubernetes",
            usage={"0": [cpu, round(cpu * 1.1, 2), round(cpu * 1.4, 2), draw.randrange(10**8, 10**10)]}
            if is_measured
            else {},
        )


def foreign(state: JobState) -> bytes:
    """Return the record as a program writes it that knows nothing of our fields."""
    record = state.to_dict()
    return json.dumps({name: record[name] for name in _THEIRS}, indent=2).encode()


class MadeUpStore:
    """Just enough of a store for `mopsjobs.cache.sync.mirror.sync` to fill a cache from it, in constant memory."""

    def __init__(self, made: Iterable[JobState]) -> None:
        """Take jobs in the order of their keys."""
        self._states = made

    def get(self, key: str) -> None:
        """Do nothing: each value came with the scan."""

    def scan(self, prefix: str, wants_values: WantsValues = always, after: str = "") -> Iterator[Entry]:
        """Yield all jobs, with their values."""
        for number, state in enumerate(self._states):
            yield Entry(f"{prefix}{state.job_id}/state.json", VersionToken(f"0x{number:X}"), state.to_json())


def fill_cache(path: Path, registry: str, made: int | Iterable[JobState]) -> None:
    """Make a cache that mirrors a registry of these jobs, or of that many, without the registry."""
    from mopsjobs.cache.sync.mirror import sync
    from mopsjobs.registry.job_registry import JobRegistry

    store = MadeUpStore(states(made, datetime.now(UTC)) if isinstance(made, int) else made)
    sync(JobRegistry(store), str(path), registry)  # type: ignore[arg-type]


def with_past(count: int, total: int, now: datetime) -> Iterator[JobState]:
    """Yield that many jobs, and further ones up to a total that ended long ago and have other ids and labels."""
    yield from states(count, now)
    past = (state for state in states(total + count, now - timedelta(days=60)) if state.is_terminal)  # some are active
    for number, state in enumerate(itertools.islice(past, total - count)):
        labels = {"exp": f"past-{state.labels['exp']}"}
        yield replace(state, job_id=f"past-{number:07}", labels=labels)


def fill(server: Azurite, container: str, count: int, *, ours: bool) -> None:
    """Create a registry of that many jobs: as mops-jobs writes them, or as other programs do, plain blobs."""
    from azure.storage.blob import ContainerClient

    with ContainerClient.from_connection_string(server.connection_string, container) as client:
        client.create_container()
    now = datetime.now(UTC)
    records = ((f"jobs/{state.job_id}/state.json", state) for state in states(count, now))
    _put_blobs(server, container, ((key, state.to_json() if ours else foreign(state)) for key, state in records), ours)


def announce(server: Azurite, container: str, count: int) -> None:
    """Announce all jobs of a registry of that many jobs, as their registrations would have."""
    from mopsjobs.registry.announcements import slot_of

    now = datetime.now(UTC)
    _put_blobs(server, container, ((f"{slot_of(now)}{state.job_id}", b"-") for state in states(count, now)), ours=True)


def _put_blobs(server: Azurite, container: str, blobs: Iterable[tuple[str, bytes]], ours: bool) -> None:
    """Write blobs, with metadata as mops-jobs has them or without. By plain HTTP: the SDK takes ten times as long."""
    from mopsjobs.store.azure import listing

    permit = server.sas_url(container, permission="w").partition("?")[2]
    lock, coming = threading.Lock(), iter(blobs)

    def write(_: int) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
            while True:
                with lock:
                    key, value = next(coming, ("", b""))
                if not key:
                    return
                headers = {"x-ms-blob-type": "BlockBlob", "Content-Type": "application/octet-stream"}
                metadata = listing.pack(value) if ours else {}
                headers |= {f"x-ms-meta-{listing.NAME}": text for text in metadata.values()}
                path = urlsplit(server.url(f"{container}/{key}")).path
                connection.request("PUT", f"{path}?{permit}", value, headers)
                reply = connection.getresponse()
                told = reply.read()
                if reply.status != 201:
                    raise RuntimeError(f"{path} was refused: {told.decode(errors='replace')[:500]}")

    with ThreadPoolExecutor(WRITERS) as writers:
        list(writers.map(write, range(WRITERS)))
