"""Read the logs of a job's pods, once or again and again until the job ends.

A followed log is asked for each `POLL_SECONDS`, from the time of its last line. So a quiet log, a lost connection and a
node that is gone hold up no other log.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from mopsjobs.engines.base import shard_prefix
from mopsjobs.engines.kubernetes.client import Cluster, Object, field, shard_of
from mopsjobs.engines.kubernetes.manifest import CONTAINER, SHARDS
from mopsjobs.errors import EngineUnavailableError
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import parse_time

log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""Seconds between two reads of the logs to follow."""

EPOCH = datetime.fromtimestamp(0, UTC)

MAX_FAILURES = 5
"""Listings in a row that may fail before following gives up."""


class Window(NamedTuple):
    """The existing lines to read: the last `tail`, or those of the last `since` seconds."""

    tail: int | None = None
    since: float | None = None


class Reader:
    """Reads the log of a pod from where it was read before: the times of the lines tell."""

    def __init__(self) -> None:
        self.is_done = False
        self._last: datetime | None = None
        """The time of the last line."""
        self._count = 0
        """Lines of that time that were read."""

    def read(self, cluster: Cluster, namespace: str, pod: Object, window: Window) -> Iterator[str]:
        """Yield the lines that were not read before."""
        params = _container(pod)
        before, to_skip = self._last, self._count
        if before is not None:
            params["sinceTime"] = before.isoformat(timespec="seconds")
        elif window.since is not None:
            params["sinceSeconds"] = str(max(1, math.ceil(window.since)))
        if before is None and window.tail is not None:
            params["tailLines"] = str(window.tail)
        for line in cluster.log(namespace, pod, params):
            stamp, _, text = line.partition(" ")
            try:
                at = parse_time(stamp)
            except ValueError:  # the kubelet's own words have no time: they count for that of the line before
                at, text = self._last or EPOCH, line
            if before is not None and at <= before:
                to_skip -= at == before
                if at < before or to_skip >= 0:
                    continue
            if self._last is None or at > self._last:
                self._last, self._count = at, 0
            self._count += at == self._last
            yield text
        self.is_done = has_ended(pod)


def read_lines(
    cluster: Cluster,
    namespace: str,
    list_pods: Callable[[], tuple[bool, Sequence[Object]]],
    window: Window,
    sleep: Callable[[float], None],
    *,
    follow: bool,
) -> Iterator[str]:
    """Yield the lines of a job, one shard after the other; to follow them, until it has ended.

    Args:
        cluster: where the job runs.
        namespace: the namespace of the job.
        list_pods: returns whether the job has ended, and its pods, listed after that, so that none is missing.
        window: which of the existing lines to read; pods that start later are read from their beginning.
        sleep: waits that many seconds.
        follow: whether to wait for further lines.

    Raises:
        EngineUnavailableError: if the cluster cannot be reached, or the node of a pod does not answer until the end.
    """
    readers: Mapping[str, Reader] = defaultdict(Reader)
    unread: dict[str, str] = {}
    failures = 0
    while True:
        try:
            is_over, pods = list_pods()
        except EngineUnavailableError:
            failures += 1
            if not follow or failures > MAX_FAILURES:
                raise
            sleep(POLL_SECONDS)
            continue
        failures = 0
        lines = _unread_lines(cluster, namespace, pods, readers, window, unread)
        yield from lines if window.tail is None else deque(lines, maxlen=window.tail)
        window = Window()
        if is_over or not follow:
            break
        sleep(POLL_SECONDS)
    if unread:
        first, *others = unread.values()
        more = f" {pluralize(len(others), 'more pod')} cannot be read either." if others else ""
        raise EngineUnavailableError(
            f"{first}{more}", hint="See the state of its node with: kubectl get nodes", sent=True
        )


def _unread_lines(
    cluster: Cluster,
    namespace: str,
    pods: Sequence[Object],
    readers: Mapping[str, Reader],
    window: Window,
    unread: dict[str, str],
) -> Iterator[str]:
    """Yield the new lines of pods. Why the log of a pod cannot be read is noted by its uid, with a warning once.

    A node that is gone answers with 500 after seconds, or not in time.

    Raises:
        EngineUnavailableError: if the cluster itself cannot be reached.
    """
    shard_counts = {(field(pod, "metadata.annotations") or {}).get(SHARDS) for pod in pods}
    several = bool(shard_counts - {None, "1"}) or any(shard_of(pod) for pod in pods)  # also if pods of one are left
    for pod in pods:
        uid = str(field(pod, "metadata.uid") or field(pod, "metadata.name"))
        reader = readers[uid]
        if reader.is_done or field(pod, "status.phase") == "Pending":
            continue
        try:
            for line in reader.read(cluster, namespace, pod, window):
                yield shard_prefix(shard_of(pod), several=several) + line
            unread.pop(uid, None)
        except EngineUnavailableError as error:
            if not error.sent:
                raise
            node = field(pod, "spec.nodeName")
            reason = "no answer in time" if error.silent else error.message.rstrip(".")
            where = f"shard {shard_of(pod)}{f' on node {node}' if node else ''}"
            problem = f"The log of {where} cannot be read: {reason}."
            if uid not in unread:
                log.warning("warning: %s", problem)
            unread[uid] = problem


def has_ended(pod: Object) -> bool:
    """Return whether all containers of a pod have ended for good."""
    return field(pod, "status.phase") in ("Succeeded", "Failed")


def _container(pod: Object) -> dict[str, str]:
    """Return the parameter for the runner's container, among those that a cluster adds; none for another program."""
    names = [container.get("name") for container in field(pod, "spec.containers") or ()]
    return {"container": CONTAINER} if CONTAINER in names else {}
