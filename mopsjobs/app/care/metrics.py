"""Prometheus metrics of the cache. A scrape sends no request to the registry.

Names and labels are a contract with alert rules and dashboards (docs/reference/metrics.md): series may be added, none
may be removed. Every state has a series, also at 0, so that alerts see zeros. Label values are few: statuses and
reasons from fixed lists with `other`, and namespaces. Owners are persons and are not among them.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from mopsjobs.cache import counters
from mopsjobs.cache.database import SCHEMA_VERSION
from mopsjobs.cache.job_json import RUNNER_ENDED
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.queries import statistics
from mopsjobs.registry.status import END_STATUSES, STATUSES
from mopsjobs.utils.files import replace_file, translate_write_errors
from mopsjobs.utils.text import strip_control_characters
from mopsjobs.utils.times import parse_time
from mopsjobs.version import __version__

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

REASONS = ("no_update", RUNNER_ENDED, "task_hangs", "pod_gone", "k8s_job_missing", "job_missing")
"""Why jobs are suspect, in words of mops-jobs. Those of engines, such as `ImagePullBackOff`, count as `other`."""

ERROR_KINDS = ("auth", "network", "throttled", "parse")

OTHER = "other"


def render(connection: sqlite3.Connection, *, now: float) -> bytes:
    """Return all metrics in Prometheus' text format.

    Args:
        connection: the cache, open to read.
        now: seconds since 1970.
    """
    registry = CollectorRegistry()
    registry.register(_CacheCollector(connection, now))
    return generate_latest(registry)


def write_textfile(path: str, connection: sqlite3.Connection, *, now: float) -> None:
    """Write all metrics to a file, for node_exporter's textfile collector; the file has the mode of the umask.

    Raises:
        MopsJobsError: if it cannot be written. A file that was there before is unchanged.
    """
    with translate_write_errors(path):
        replace_file(path, render(connection, now=now), mode=0o666)


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


def _family(
    kind: type[GaugeMetricFamily | CounterMetricFamily],
    name: str,
    text: str,
    labels: tuple[str, ...],
    values: Iterable[tuple[tuple[str, ...], float]],
) -> Metric:
    """Return a metric with a series for each values of its labels."""
    family = kind(name, text, labels=labels)
    for names, value in values:
        family.add_metric(names, value)
    return family


def _jobs(tallies: list[statistics.Tally], counted: _Counted) -> Iterator[Metric]:
    """Yield how many jobs there are, and how many have ended."""
    found: Counter[tuple[str, str]] = Counter()
    for tally in tallies:
        found[_status(tally.status), strip_control_characters(tally.namespace)] += tally.jobs
    ended: Counter[tuple[str, str]] = Counter()
    for (end, where), count in counted.get(counters.FINISHED, {}).items():
        ended[str(end), strip_control_characters(str(where))] += int(count)
    places = sorted({namespace for _, namespace in found} or {""})
    more_places = sorted({*places, *(namespace for _, namespace in ended)})
    labels, text = ("status", "namespace"), "Jobs that ended, as far as this cache has seen it."
    jobs = ((key, found[key]) for key in itertools.product((*STATUSES, OTHER), places))
    yield _family(GaugeMetricFamily, "mops_jobs", "Jobs in the cache.", labels, jobs)
    finished = ((key, ended[key]) for key in itertools.product(END_STATUSES, more_places))
    yield _family(CounterMetricFamily, "mops_jobs_finished", text, labels, finished)


def _active(connection: sqlite3.Connection, now: float) -> Iterator[Metric]:
    """Yield how many jobs are active, and how many may be stuck."""
    active = statistics.active_tallies(connection)
    oldest: dict[str, float] = {}
    for tally in active:
        status = _status(tally.status)
        oldest[status] = min(tally.oldest_change, oldest.get(status, tally.oldest_change))
    text = "When the least recently written active job was written; absent if there is none."
    name = "mops_jobs_oldest_update_timestamp_seconds"
    yield _family(GaugeMetricFamily, name, text, ("status",), (((one,), at) for one, at in oldest.items()))
    found = statistics.suspects(connection, now)
    suspects = [((reason,), found.pop(reason, 0)) for reason in REASONS]
    suspects.append(((OTHER,), sum(found.values())))
    yield _family(GaugeMetricFamily, "mops_jobs_suspect", "Active jobs that may be stuck.", ("reason",), suspects)
    tasks = [(("completed",), sum(one.tasks_completed for one in active))]
    tasks.append((("remaining",), sum(one.tasks_remaining for one in active)))
    yield _family(GaugeMetricFamily, "mops_job_tasks", "Tasks of the active jobs.", ("state",), tasks)


def _ends(counted: _Counted) -> Iterator[Metric]:
    """Yield how long jobs ran and waited."""
    text = "From the first task of a job to its end."
    run = HistogramMetricFamily("mops_job_run_duration_seconds", text, labels=("status",))
    for status in END_STATUSES:
        run.add_metric((status,), *_histogram(counted, counters.RUN, (status,)))
    yield run
    text = "From the registration of a job to its first task."
    queue = HistogramMetricFamily("mops_job_queue_duration_seconds", text)
    queue.add_metric((), *_histogram(counted, counters.QUEUE, ()))
    yield queue


def _histogram(counted: _Counted, name: str, labels: counters.Labels) -> tuple[list[tuple[str, float]], float]:
    """Return the cumulative buckets of a histogram, and its sum."""
    found = counted.get(name, {})
    buckets, total = [], 0.0
    for bound in (*counters.BUCKETS, counters.UNBOUNDED):
        total += found.get((*labels, bound), 0)
        buckets.append((str(bound) if bound == counters.UNBOUNDED else f"{float(bound)}", total))
    return buckets, counted.get(name + counters.SUM, {}).get(labels, 0.0)


def _outputs(tallies: list[statistics.Tally]) -> Metric:
    text = "Outputs that the jobs in the cache should have; one per task if a record does not list them."
    states = ("verified", "missing", "unchecked")
    series = (((state,), sum(getattr(tally, state) for tally in tallies)) for state in states)
    return _family(GaugeMetricFamily, "mops_job_outputs", text, ("state",), series)


def _syncs(meta: Mapping[str, str], connection: sqlite3.Connection, counted: _Counted) -> Iterator[Metric]:
    """Yield the age of the cache, and what the last sync did."""
    text = "When the last complete sync began; 0 if there was none."
    moment = parse_time(meta["synced_at"]).timestamp() if "synced_at" in meta else 0.0
    yield GaugeMetricFamily("mops_sync_last_success_timestamp_seconds", text, value=moment)
    last = json.loads(meta.get("last_sync", "{}"))
    text = "How long the last complete sync took."
    yield GaugeMetricFamily("mops_sync_duration_seconds", text, value=last.get("seconds", 0.0))
    blobs = {
        ("unchanged",): last.get("unchanged", 0),
        ("changed",): last.get("added", 0) + last.get("changed", 0),
        ("removed",): last.get("removed", 0),
        ("invalid",): statistics.count_unreadable_records(connection),
    }
    text = "Records of the last complete sync."
    yield _family(GaugeMetricFamily, "mops_sync_blobs", text, ("outcome",), blobs.items())
    text, failed = "Syncs that failed or left records out.", counted.get(counters.SYNC_ERRORS, {})
    errors = (((kind,), failed.get((kind,), 0.0)) for kind in ERROR_KINDS)
    yield _family(CounterMetricFamily, "mops_sync_errors", text, ("kind",), errors)
    yield GaugeMetricFamily("mops_cache_size_bytes", "Size of the cache file.", value=statistics.cache_size(connection))
    build = (((__version__, str(SCHEMA_VERSION)), 1),)
    labels = ("version", "schema")
    yield _family(GaugeMetricFamily, "mops_build_info", "The program and its cache's schema.", labels, build)


def _status(status: str) -> str:
    return status if status in STATUSES else OTHER
