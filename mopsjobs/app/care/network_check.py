"""Measure the line to the registry: how long a reply takes, how many come per second, and what fails."""

from __future__ import annotations

import itertools
import statistics

from mopsjobs.app.care.checks import CheckResult, Diagnosis
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.sync.fetcher import FailedRead, ParallelFetcher
from mopsjobs.errors import MopsJobsError, command_line
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import Versioned
from mopsjobs.store.bulk import bulk_reads, pacer_of
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import human_duration

SAMPLE = 200
"""Records that are listed and read."""

PINGS = 5
"""Reads one after the other, for the latency."""

NOTHING_TO_READ = CheckResult("network", "warn", "not measured, since the registry has no jobs to read", "see `access`")


def check_network(diagnosis: Diagnosis) -> CheckResult:
    """Read a few records one by one and at once, and estimate what a full mirror takes."""
    app = diagnosis.app
    if app.settings.is_local:
        return CheckResult("network", "ok", "the registry is on this machine")
    if diagnosis.state_of("access") != "ok":
        return NOTHING_TO_READ
    try:
        with bulk_reads(app.store):
            return _measure(diagnosis, app.registry)
    except MopsJobsError as error:
        return CheckResult("network", "fail", str(error), error.hint or "check the network", error.exit_code)


def _measure(diagnosis: Diagnosis, registry: JobRegistry) -> CheckResult:
    app, store = diagnosis.app, registry.store
    start = app.monotonic()
    records = (entry for entry in registry.scan() if registry.job_id_of(entry.key) is not None)
    entries = list(itertools.islice(records, SAMPLE))
    if not entries:
        return NOTHING_TO_READ
    listing_seconds = app.monotonic() - start
    latencies = []
    for entry in entries[:PINGS]:
        start = app.monotonic()
        with ParallelFetcher(store, threads=0) as fetcher:
            list(fetcher.fetch([entry.key]))
        latencies.append(app.monotonic() - start)
    start = app.monotonic()
    with ParallelFetcher.for_store(store) as fetcher:
        values = list(fetcher.fetch([entry.key for entry in entries]))
    seconds = max(app.monotonic() - start, 0.001)
    size = sum(len(value.value) for value in values if isinstance(value, Versioned))
    failed = sum(isinstance(value, FailedRead) for value in values)
    retries = pacer.retries if (pacer := pacer_of(store)) is not None else 0
    jobs = max(app.cache.read_cached(job_queries.count_jobs) or 0, len(entries))
    reads = sum(entry.value is None for entry in entries) / len(entries) * seconds
    estimate = (listing_seconds + reads) * jobs / len(entries)
    facts = [
        f"latency {statistics.median(latencies) * 1000:.0f} ms",
        f"{len(entries) / seconds:.0f} reads/s",
        f"{size / seconds / 1000:.0f} kB/s",
        f"{retries} retries",
        f"{failed} failed",
    ]
    detail = f"{', '.join(facts)}; a full mirror of {pluralize(jobs, 'job')} takes about {human_duration(estimate)}"
    if failed or retries > len(entries) // 10:
        return CheckResult("network", "warn", detail, f"see the reasons: {command_line('sync --full -v')}")
    return CheckResult("network", "ok", detail)
