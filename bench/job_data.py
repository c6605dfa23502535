"""A made-up job that has ended, with its ledger, scalars and outputs, as its runners leave them in a store."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from mopsjobs.ledger.attempt import Attempt, AttemptError, Outcome
from mopsjobs.ledger.format import chunk_key, encode_attempts
from mopsjobs.ledger.scalars import encode_scalars
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.bulk import create_all_if_absent
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.studies.outputs import output_key
from mopsjobs.studies.study_parser import parse_study

CHUNK = 5_000
"""Tasks of a chunk of the ledger."""


class Sizes(NamedTuple):
    """Bytes per task in the store."""

    ledger: float
    scalars: float


def fill(
    store: Any,
    job_id: str,
    sets: Iterable[Mapping[str, Any]],
    replicates: int,
    *,
    scalars: Callable[[], Mapping[str, object]] | None = None,
    output: Callable[[], bytes] | None = None,
    output_name: str = "result.json",
    error_of: Callable[[int], AttemptError | None] = lambda task: None,
) -> Sizes:
    """Put the job into a store. Its tasks have log-normal times, on eight hosts.

    Args:
        store: the store.
        job_id: the job.
        sets: its parameter sets.
        replicates: of each set.
        scalars: makes the scalars of a task; None: it has none.
        output: makes the output of a task; None: it is gone.
        output_name: the name of that.
        error_of: why a task failed, by its number; None: it has not.
    """
    began = datetime.now(UTC) - timedelta(hours=3)
    registry = JobRegistry(store, now=lambda: began)
    document = {"model": "model:simulate", "parameter_sets": list(sets), "outputs": [output_name]}
    study = parse_study({**document, "n_replicates": replicates})
    manifest = Manifest(job_id=job_id, study=study, bundle="sha256:" + "0" * 64)
    store.create_if_absent(manifest_key(job_id), manifest.to_json())
    registry.register_job(job_id, **manifest.record_fields())
    draw, tasks, at = random.Random(1), study.tasks(), began.timestamp()
    ledger = scalar = failed = 0
    for first in range(0, study.tasks_total, CHUNK):
        numbers = range(first, min(first + CHUNK, study.tasks_total))
        if output is not None:
            create_all_if_absent(store, [(output_key(job_id, next(tasks), output_name), output()) for _ in numbers])
        attempts = []
        for task in numbers:
            error = error_of(task)
            failed += error is not None
            outcome = Outcome.SUCCEEDED if error is None else Outcome.FAILED
            seconds = draw.lognormvariate(1.0, 0.5)
            at += seconds / 256
            memory = round(draw.gauss(200, 5)) * 2**20 + draw.randrange(64) * 4096
            usage = (seconds, seconds * draw.uniform(0.9, 1.0), draw.uniform(0.0, 0.1), memory)
            attempts.append(Attempt(task, 1, outcome, at, *usage, f"node-{draw.randrange(8)}", "3.12.4", error, 2048))
        chunk = encode_attempts(job_id, 0, attempts)
        ledger += len(chunk)
        store.create_if_absent(chunk_key(job_id, 0, "ab", first // CHUNK), chunk)
        if scalars is not None:
            chunk = encode_scalars(job_id, 0, ((task, scalars()) for task in numbers)) or b""
            scalar += len(chunk)
            store.create_if_absent(chunk_key(job_id, 0, "ab", first // CHUNK, "scalars"), chunk)
    registry.update_status(job_id, "partial" if failed else "succeeded")
    return Sizes(ledger / study.tasks_total, scalar / study.tasks_total)
