"""Prometheus metrics of the cache. A scrape sends no request to the registry.

Names and labels are a contract with alert rules and dashboards (docs/reference/metrics.md): series may be added, none
may be removed. Every state has a series, also at 0, so that alerts see zeros. Label values are few: statuses and
reasons from fixed lists with `other`, and namespaces. Owners are persons and are not among them.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from mopsjobs.cache import counters
from mopsjobs.cache.database import SCHEMA_VERSION
from mopsjobs.cache.job_json import RUNNER_ENDED
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries import statistics
from mopsjobs.errors import MopsJobsError
from mopsjobs.registry.status import END_STATUSES, STATUSES
from mopsjobs.utils.files import replace_file
from mopsjobs.utils.text import strip_control_characters
from mopsjobs.utils.times import parse_time
from mopsjobs.version import __version__

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
"""The Content-Type of what `render` returns."""

REASONS = ("no_update", RUNNER_ENDED, "task_hangs", "pod_gone", "k8s_job_missing", "job_missing")
"""Why jobs are suspect, in words of mops-jobs. Those of engines, such as `ImagePullBackOff`, count as `other`."""

ERROR_KINDS = ("auth", "network", "throttled", "parse")

OPERATIONS = ("status", "progress", "shard", "fields", "cancel")

OTHER = "other"


def render(connection: sqlite3.Connection, *, now: float) -> bytes:
    """Return all metrics in Prometheus' text format.

    Args:
        connection: the cache, open to read.
        now: seconds since 1970.
    """
    return generate_latest(_registry(connection, now))


def write_textfile(path: str, connection: sqlite3.Connection, *, now: float) -> None:
    """Write all metrics to a file, for node_exporter's textfile collector; the file has the mode of the umask.

    Raises:
        MopsJobsError: if it cannot be written. A file that was there before is unchanged.
    """
    try:
        replace_file(path, render(connection, now=now), mode=0o666)
    except OSError as error:
        raise MopsJobsError(f"Cannot write {path}: {error.strerror}.") from None


def _registry(connection: sqlite3.Connection, now: float) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_CacheCollector(connection, now))
    return registry


class _CacheCollector(Collector):
    """Collects from one moment of the cache."""

    def __init__(self, connection: sqlite3.Connection, now: float) -> None:
        self._connection = connection
        self._now = now

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics."""
        if not self._connection.in_transaction:
            self._connection.execute("BEGIN")  # one state of the cache, whatever a sync writes meanwhile
        try:
            tallies = statistics.tallies(self._connection)
            counted = counters.read(self._connection)
            yield from _jobs(tallies, counted)
            yield from _active(self._connection, self._now)
            yield from _ends(counted)
            yield _outputs(tallies)
            yield from _syncs(job_queries.all_meta(self._connection), self._connection, counted)
        finally:
            self._connection.rollback()


_Counted = Mapping[str, Mapping[counters.Labels, float]]


def _jobs(tallies: list[statistics.Tally], counted: _Counted) -> Iterator[Metric]:
    """Yield how many jobs there are, and how many have ended."""
    found: Counter[tuple[str, str]] = Counter()
    for tally in tallies:
        found[_status(tally.status), strip_control_characters(tally.namespace)] += tally.jobs
    places = {namespace for _, namespace in found} or {""}
    jobs = GaugeMetricFamily("mops_jobs", "Jobs in the cache.", labels=("status", "namespace"))
    for status in (*STATUSES, OTHER):
        for namespace in sorted(places):
            jobs.add_metric((status, namespace), found[status, namespace])
    yield jobs

    ended: Counter[tuple[str, str]] = Counter()
    for (end, where), count in counted.get(counters.FINISHED, {}).items():
        ended[str(end), strip_control_characters(str(where))] += int(count)
    finished = CounterMetricFamily(
        "mops_jobs_finished", "Jobs that ended, as far as this cache has seen it.", labels=("status", "namespace")
    )
    namespaces = places | {namespace for _, namespace in ended}
    for status in END_STATUSES:
        for namespace in sorted(namespaces):
            finished.add_metric((status, namespace), ended[status, namespace])
    yield finished


def _active(connection: sqlite3.Connection, now: float) -> Iterator[Metric]:
    """Yield how many jobs are active, and how many may be stuck."""
    active = statistics.active_tallies(connection)
    oldest: dict[str, float] = {}
    for tally in active:
        status = _status(tally.status)
        oldest[status] = min(tally.oldest_change, oldest.get(status, tally.oldest_change))
    update = GaugeMetricFamily(
        "mops_jobs_oldest_update_timestamp_seconds",
        "When the least recently written active job was written; absent if there is none.",
        labels=("status",),
    )
    for status, moment in oldest.items():
        update.add_metric((status,), moment)
    yield update

    found = statistics.suspects(connection, now)
    suspect = GaugeMetricFamily("mops_jobs_suspect", "Active jobs that may be stuck.", labels=("reason",))
    for reason in REASONS:
        suspect.add_metric((reason,), found.pop(reason, 0))
    suspect.add_metric((OTHER,), sum(found.values()))
    yield suspect

    tasks = GaugeMetricFamily("mops_job_tasks", "Tasks of the active jobs.", labels=("state",))
    tasks.add_metric(("completed",), sum(tally.tasks_completed for tally in active))
    tasks.add_metric(("remaining",), sum(tally.tasks_remaining for tally in active))
    yield tasks


def _ends(counted: _Counted) -> Iterator[Metric]:
    """Yield how long jobs ran and waited, and what they used."""
    run = HistogramMetricFamily(
        "mops_job_run_duration_seconds", "From the first task of a job to its end.", labels=("status",)
    )
    for status in END_STATUSES:
        run.add_metric((status,), *_histogram(counted, counters.RUN, (status,)))
    yield run
    queue = HistogramMetricFamily(
        "mops_job_queue_duration_seconds", "From the registration of a job to its first task."
    )
    queue.add_metric((), *_histogram(counted, counters.QUEUE, ()))
    yield queue
    for name, text in (
        ("cpu_seconds", "Processor time that tasks used, of jobs that ended."),
        ("task_seconds", "How long tasks took, of jobs that ended."),
        ("held_core_seconds", "How long workers were held for tasks, of jobs that ended."),
    ):
        used = CounterMetricFamily(f"mops_job_{name}", text, labels=("status",))
        for status in END_STATUSES:
            used.add_metric((status,), counted.get(name, {}).get((status,), 0.0))
        yield used


def _histogram(counted: _Counted, name: str, labels: counters.Labels) -> tuple[list[tuple[str, float]], float]:
    """Return the cumulative buckets of a histogram, and its sum."""
    found = counted.get(name, {})
    buckets, total = [], 0.0
    for bound in (*counters.BUCKETS, counters.UNBOUNDED):
        total += found.get((*labels, bound), 0)
        buckets.append((str(bound) if bound == counters.UNBOUNDED else f"{float(bound)}", total))
    return buckets, counted.get(name + counters.SUM, {}).get(labels, 0.0)


def _outputs(tallies: list[statistics.Tally]) -> Metric:
    outputs = GaugeMetricFamily(
        "mops_job_outputs",
        "Outputs that the jobs in the cache should have; one per task if a record does not list them.",
        labels=("state",),
    )
    for state in ("verified", "missing", "unchecked"):
        outputs.add_metric((state,), sum(getattr(tally, state) for tally in tallies))
    return outputs


def _syncs(meta: Mapping[str, str], connection: sqlite3.Connection, counted: _Counted) -> Iterator[Metric]:
    """Yield the age of the cache, and what the last sync did."""
    for name, key, text in (
        ("success", "synced_at", "When the last complete sync began; 0 if there was none."),
        ("full", "full_synced_at", "When the last complete scan of the whole registry began; 0 if there was none."),
        ("attempt", "attempted_at", "When the last sync began; 0 if there was none."),
    ):
        moment = parse_time(meta[key]).timestamp() if key in meta else 0.0
        yield GaugeMetricFamily(f"mops_sync_last_{name}_timestamp_seconds", text, value=moment)
    last = json.loads(meta.get("last_sync", "{}"))
    yield GaugeMetricFamily(
        "mops_sync_duration_seconds", "How long the last complete sync took.", value=last.get("seconds", 0.0)
    )
    blobs = GaugeMetricFamily("mops_sync_blobs", "Records of the last complete sync.", labels=("outcome",))
    blobs.add_metric(("unchanged",), last.get("unchanged", 0))
    blobs.add_metric(("changed",), last.get("added", 0) + last.get("changed", 0))
    blobs.add_metric(("removed",), last.get("removed", 0))
    blobs.add_metric(("invalid",), statistics.count_unreadable_records(connection))
    yield blobs
    for name, label, values, counter, text in (
        ("mops_sync_errors", "kind", ERROR_KINDS, counters.SYNC_ERRORS, "Syncs that failed or left records out."),
        (
            "mops_cas_conflicts",
            "operation",
            OPERATIONS,
            counters.CAS_CONFLICTS,
            "Races for a record that were lost here.",
        ),
    ):
        family = CounterMetricFamily(name, text, labels=(label,))
        for value in values:
            family.add_metric((value,), counted.get(counter, {}).get((value,), 0))
        yield family
    yield GaugeMetricFamily("mops_cache_size_bytes", "Size of the cache file.", value=statistics.cache_size(connection))
    build = GaugeMetricFamily("mops_build_info", "The program and its cache's schema.", labels=("version", "schema"))
    build.add_metric((__version__, str(SCHEMA_VERSION)), 1)
    yield build


def _status(status: str) -> str:
    return status if status in STATUSES else OTHER
