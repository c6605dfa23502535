"""Ledgers, as the runners of a job leave them in the store."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from mopsjobs.ledger.attempt import Attempt, AttemptError, Outcome
from mopsjobs.ledger.format import chunk_key, encode_attempts, parse_attempts, parse_chunk_key
from mopsjobs.ledger.scalars import encode_scalars, extract_scalars
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.studies.outputs import output_key
from mopsjobs.studies.study_parser import parse_study
from support.cli import START

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mopsjobs.registry.job_registry import JobRegistry
    from mopsjobs.store.base import VersionedStore
    from mopsjobs.studies.manifest import Origin, Reuse
    from support.cli import Cli

BUNDLE = "sha256:" + "0" * 64

ERROR = AttemptError("1a2b3c4d5e6f", "ValueError", "model.py:21", "beta is 0.93")


def attempt(task: int, outcome: str = "succeeded", **fields: Any) -> Attempt:
    """Return an attempt that began `task` seconds after the start of the clock."""
    error = ERROR if outcome == "failed" else None
    usual = Attempt(
        task=task,
        attempt=1,
        outcome=Outcome(outcome),
        started_at=START.timestamp() + task,
        seconds=2.5,
        user_seconds=2.0,
        system_seconds=0.25,
        max_rss_bytes=50 * 2**20,
        host="node-1",
        python="3.12.4",
        error=error,
        output_bytes=100 if outcome == "succeeded" else None,
    )
    return usual._replace(**fields)


def attempts_in(store: VersionedStore) -> list[Attempt]:
    """Return the attempts of all chunks in a store, in the order of the keys."""
    found: list[Attempt] = []
    for key in store.list_keys("ledger/"):
        value, parts = store.get(key), parse_chunk_key(key)
        assert value is not None
        assert parts is not None
        if parts.kind == "attempts":
            found += parse_attempts(value.value, parts)
    return found


def put_manifest(
    store: VersionedStore,
    job_id: str,
    sets: list[Any],
    *,
    only: Iterable[int] | None = None,
    parent: str | None = None,
    bundle: str = BUNDLE,
    origin: Origin | None = None,
    reused: tuple[Reuse, ...] = (),
    **study: Any,
) -> Manifest:
    """Put the manifest of a job into the store. With `only`, it is the child of `parent`, or of the first job."""
    parent = parent or job_id.rpartition(".")[0] or None
    manifest = Manifest(
        job_id=job_id,
        study=parse_study({"model": "model:simulate", "parameter_sets": sets, "outputs": ["result.json"], **study}),
        bundle=bundle,
        origin=origin,
        reused=reused,
        only=None if only is None else tuple(only),
        parent_job_id=parent if only is not None else None,
    )
    store.create_if_absent(manifest_key(job_id), manifest.to_json())
    return manifest


def add_job(
    registry: JobRegistry,
    job_id: str,
    sets: list[Any],
    *,
    status: str = "running",
    attempts: Iterable[Attempt] = (),
    scalars: Mapping[int, object] | None = None,
    **fields: Any,
) -> Manifest:
    """Register a job as a submission does, with its manifest, and bring it to a status.

    Then leave a chunk of attempts, and one of the scalars of tasks, if there are any.
    """
    manifest = put_manifest(registry.store, job_id, sets, **fields)
    registry.register_job(job_id, **manifest.record_fields())
    if status != "pending":
        registry.update_status(job_id, status)
    if attempts:
        Ledger(registry.store, job_id)(*attempts)
    if scalars is not None:
        leave_scalars(registry, job_id, scalars)
    return manifest


class Ledger:
    """A runner that leaves chunks of attempts of one shard."""

    def __init__(self, store: VersionedStore, job_id: str = "job", *, run: str = "ab", shard: int = 0) -> None:
        self._store = store
        self._job_id = job_id
        self._run = run
        self._shard = shard
        self._number = 0

    def __call__(self, *attempts: Attempt) -> str:
        """Write a chunk, and return its key."""
        key = chunk_key(self._job_id, self._shard, self._run, self._number)
        self._number += 1
        assert self._store.create_if_absent(key, encode_attempts(self._job_id, self._shard, attempts))
        return key


def leave_outputs(store: VersionedStore, manifest: Manifest, *numbers: int) -> None:
    """Write the outputs of these tasks."""
    for task in manifest.study.tasks():
        if task.number in numbers:
            store.create_if_absent(output_key(manifest.job_id, task, "result.json"), b"{}")


def leave_output(
    jobs: JobRegistry, manifest: Manifest, number: int, *, name: str = "result.json", **scalars: Any
) -> None:
    """Write an output of a task."""
    task = next(task for task in manifest.study.tasks() if task.number == number)
    value = json.dumps(scalars).encode()
    jobs.store.create_if_absent(output_key(manifest.job_id, task, name), value)


def run_task(jobs: JobRegistry, sets: list[Any], /, *, outputs: tuple[str, ...] = (), **scalars: Any) -> Manifest:
    """Add a job, and leave the end of its first task with these scalars as `result.json`."""
    manifest = add_job(jobs, "job", sets, outputs=["result.json", *outputs])
    Ledger(jobs.store)(attempt(0))
    leave_output(jobs, manifest, 0, **scalars)
    return manifest


def leave_scalars(jobs: JobRegistry, job_id: str, outputs: Mapping[int, object], *, number: int = 0) -> str:
    """Write a chunk of scalars, as a runner does for tasks with such a `result.json`."""
    tasks = ((task, extract_scalars({"result.json": json.dumps(value).encode()})) for task, value in outputs.items())
    key = chunk_key(job_id, 0, "ab", number, "scalars")
    value = encode_scalars(job_id, 0, tasks)
    assert value is not None
    assert jobs.store.create_if_absent(key, value)
    return key


def results_table(cli: Cli, *argv: str) -> list[dict[str, str]]:
    """Return the table of `results --table` as a reader of CSV finds it."""
    return list(csv.DictReader(io.StringIO(cli.ok("results", *argv, "--table", "-").out)))
