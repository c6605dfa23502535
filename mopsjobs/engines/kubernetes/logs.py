"""Read the logs of a job's pods once, or follow them across lost connections."""

from __future__ import annotations

import contextlib
import logging
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from mopsjobs.engines.base import shard_prefix
from mopsjobs.engines.kubernetes.client import Cluster, shard_of
from mopsjobs.engines.kubernetes.manifest import CONTAINER, SHARDS
from mopsjobs.errors import EngineUnavailableError
from mopsjobs.utils.text import pluralize
from mopsjobs.utils.times import parse_time

if TYPE_CHECKING:
    from lightkube.resources.core_v1 import Pod


log = logging.getLogger(__name__)

POLL_SECONDS = 2.0
"""Seconds between two listings of the pods to follow."""

MAX_FAILURES = 5
"""Listings in a row that may fail before following gives up."""

CLOCK_MARGIN_SECONDS = 60
"""How far the clocks of a node and of this machine may be apart when a log is requested again."""

_ENDED_PHASES = ("Succeeded", "Failed")


class Window(NamedTuple):
    """The existing lines to read: the last `tail`, or those of the last `since` seconds."""

    tail: int | None = None
    since: float | None = None


class Reader:
    """Reads the log of a pod, again after a lost connection: the times of the lines tell how far it was read."""

    def __init__(self) -> None:
        self.is_done = False
        self.reached_end = False
        self.is_silent = False
        """Whether the last read brought no line: the log is quiet, or its node does not answer."""
        self._last = ("", "")
        """The time of the last line: seconds, and the fraction."""
        self._count = 0
        """Lines of that time that were read."""
        self._to_skip = 0
        """Lines of that time that come once more."""

    def read(self, cluster: Cluster, pod: Pod, window: Window, now: datetime, *, follow: bool) -> Iterator[str]:
        """Yield the lines that were not read before."""
        since = None if window.since is None else max(1, math.ceil(window.since))
        tail = window.tail
        if self._count:
            since, tail = self._back_to_last(now), None
        self._to_skip, self.reached_end, self.is_silent = self._count, False, True
        for line in cluster.log(pod, _container(pod), follow=follow, tail=tail, since=since):
            if line is None:
                self.reached_end = True
                continue
            text = self._unread_text(line)
            if text is not None:
                self.is_silent = False
                yield text

    def follow(self, cluster: Cluster, pod: Pod, window: Window, now: datetime) -> Iterator[str]:
        """Yield the lines that were not read before, and those that come meanwhile.

        A quiet log that is followed has no answer until its next line, as that of a node that is gone. So a silent log
        is read as it is until a line comes. A node that lives answers that at once.
        """
        was_silent = self.is_silent
        if not was_silent:
            yield from self.read(cluster, pod, window, now, follow=True)
        if was_silent or (self.is_silent and not self.reached_end):
            yield from self.read(cluster, pod, window, now, follow=False)

    def _unread_text(self, line: str) -> str | None:
        """Return the text of a line behind its time; None if the line was read before."""
        stamp, _, text = line.partition(" ")
        second, _, fraction = stamp.rstrip("Z").partition(".")
        at = (second, fraction.ljust(9, "0"))
        if at < self._last:
            return None
        if at > self._last:
            self._last, self._count, self._to_skip = at, 1, 0
        elif self._to_skip:
            self._to_skip -= 1
            return None
        else:
            self._count += 1
        return text

    def _back_to_last(self, now: datetime) -> int:
        """Return the seconds that reach back to before the last line."""
        with contextlib.suppress(ValueError):
            passed = (now - parse_time(f"{self._last[0]}Z")).total_seconds()
            return max(0, math.ceil(passed)) + CLOCK_MARGIN_SECONDS
        return 3600


def existing_lines(cluster: Cluster, pods: Sequence[Pod], window: Window, now: datetime) -> Iterator[str]:
    """Yield the existing lines, one shard after the other.

    Raises:
        EngineUnavailableError: if the node of a pod does not answer; after the lines that can be read.
    """
    several = _are_several(pods)
    unread: dict[str, str] = {}

    def read() -> Iterator[str]:
        for pod in pods:
            with _noting_unread(pod, unread):
                for line in Reader().read(cluster, pod, window, now, follow=False):
                    yield shard_prefix(shard_of(pod), several=several) + line

    yield from read() if window.tail is None else deque(read(), maxlen=window.tail)
    _raise_if_unread(unread)


def follow_lines(
    cluster: Cluster,
    list_pods: Callable[[], tuple[bool, Sequence[Pod]]],
    window: Window,
    now: Callable[[], datetime],
    sleep: Callable[[float], None],
) -> Iterator[str]:
    """Yield the lines of a job until it has ended, one shard after the other.

    Args:
        cluster: where the job runs.
        list_pods: returns whether the job has ended, and its pods, listed after that, so that none is missing.
        window: which of the existing lines to read; pods that start later are read from their beginning.
        now: the time.
        sleep: waits that many seconds.

    Raises:
        EngineUnavailableError: if the cluster cannot be reached, or the node of a pod does not answer until the end.
    """
    readers: dict[str, Reader] = {}
    unread: dict[str, str] = {}
    failures = 0
    is_first = True
    while True:
        try:
            is_over, pods = list_pods()
        except EngineUnavailableError:
            failures += 1
            if failures > MAX_FAILURES:
                raise
            sleep(POLL_SECONDS)
            continue
        failures = 0
        several = _are_several(pods)
        for pod in pods:
            reader = readers.setdefault(_uid(pod), Reader())
            if reader.is_done or not _has_started(pod):
                continue
            with _noting_unread(pod, unread):
                for line in reader.follow(cluster, pod, window if is_first else Window(), now()):
                    yield shard_prefix(shard_of(pod), several=several) + line
            # If the pod still ran when it was listed, the stream may have ended because the log was rotated.
            reader.is_done = reader.reached_end and _phase(pod) in _ENDED_PHASES
        is_first = False
        if is_over:
            _raise_if_unread(unread)
            return
        sleep(POLL_SECONDS)


@contextlib.contextmanager
def _noting_unread(pod: Pod, unread: dict[str, str]) -> Iterator[None]:
    """Note why the log of a pod cannot be read, in a sentence by its uid, and warn once. The others go on.

    A node that is gone answers with 500 after seconds, or not in time.

    Raises:
        EngineUnavailableError: if the cluster itself cannot be reached.
    """
    try:
        yield
    except EngineUnavailableError as error:
        if not error.sent:
            raise
        node = "" if pod.spec is None or pod.spec.nodeName is None else f" on node {pod.spec.nodeName}"
        reason = "no answer in time" if error.silent else error.message.rstrip(".")
        problem = f"The log of shard {shard_of(pod)}{node} cannot be read: {reason}."
        if _uid(pod) not in unread:
            log.warning("warning: %s", problem)
        unread[_uid(pod)] = problem
    else:
        unread.pop(_uid(pod), None)


def _raise_if_unread(unread: dict[str, str]) -> None:
    if unread:
        first, *others = unread.values()
        more = f" {pluralize(len(others), 'more pod')} cannot be read either." if others else ""
        raise EngineUnavailableError(
            f"{first}{more}", hint="See the state of its node with: kubectl get nodes", sent=True
        )


def _container(pod: Pod) -> str | None:
    """Return the runner's container, among those that a cluster adds; None for a Job of another program."""
    names = [] if pod.spec is None else [container.name for container in pod.spec.containers]
    return CONTAINER if CONTAINER in names else None


def _are_several(pods: Sequence[Pod]) -> bool:
    """Return True if the job has several shards, also if only pods of one are left."""
    shard_counts = {(pod.metadata.annotations or {}).get(SHARDS) for pod in pods if pod.metadata is not None}
    return bool(shard_counts - {None, "1"}) or any(shard_of(pod) for pod in pods)


def _uid(pod: Pod) -> str:
    return "" if pod.metadata is None else str(pod.metadata.uid or pod.metadata.name)


def _phase(pod: Pod) -> str | None:
    return None if pod.status is None else pod.status.phase


def _has_started(pod: Pod) -> bool:
    return _phase(pod) in ("Running", *_ENDED_PHASES)
