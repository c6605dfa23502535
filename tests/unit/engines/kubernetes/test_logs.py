"""Logs that are followed, from a cluster of which one node does not answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from lightkube.models.core_v1 import PodStatus
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.core_v1 import Pod

from mopsjobs.engines.kubernetes.client import INDEX_LABEL, Cluster, shard_of
from mopsjobs.engines.kubernetes.logs import Window, follow_lines
from mopsjobs.errors import EngineUnavailableError

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def _pod(shard: int, phase: str) -> Pod:
    metadata = ObjectMeta(name=f"job-{shard}", uid=str(shard), labels={INDEX_LABEL: str(shard)})
    return Pod(metadata=metadata, status=PodStatus(phase=phase))


class _Lines:
    """The lines of shard 1. Shard 0 gives no answer, also not to a log that is followed, until it is `found`."""

    def __init__(self) -> None:
        self.reads: list[tuple[int, bool]] = []
        self.found: list[str] | None = None

    def log(self, pod: Pod, _container: object, *, follow: bool, **_window: Any) -> Iterator[str | None]:
        shard = shard_of(pod)
        self.reads.append((shard, follow))
        if shard == 0 and self.found is None:
            if follow:  # the connection was given up after a silence, as that of a quiet log is
                return
            raise EngineUnavailableError("no answer", sent=True, silent=True)
        yield from self.found or [] if shard == 0 else ["2026-03-01T00:00:00Z a"]
        yield None


def _followed(cluster: _Lines, on_round: Callable[[int], object] = lambda _: None) -> Iterator[str]:
    rounds = iter(range(100))

    def list_pods() -> tuple[bool, list[Pod]]:
        number = next(rounds)
        on_round(number)
        return number == 3, [_pod(0, "Running"), _pod(1, "Succeeded" if number == 3 else "Running")]

    return follow_lines(cast("Cluster", cluster), list_pods, Window(), lambda: NOW, lambda _: None)


def test_a_mute_node_holds_up_a_followed_log_once() -> None:
    """Later rounds ask it for what is there, which a node that lives answers at once. At the end, it is named."""
    cluster = _Lines()
    told = _followed(cluster)
    assert next(told) == "shard 1: a"
    with pytest.raises(EngineUnavailableError, match=r"The log of shard 0 cannot be read: no answer in time\."):
        list(told)
    assert [follow for shard, follow in cluster.reads if shard == 0] == [True, False, False, False, False]


def test_a_log_that_was_only_quiet_is_followed_again() -> None:
    """Its first line ends the short reads, and nothing is missing at the end."""
    cluster = _Lines()

    def speak(number: int) -> None:
        cluster.found = None if number == 0 else [f"2026-03-01T00:00:0{n}Z b{n}" for n in range(number)]

    assert [line for line in _followed(cluster, speak) if "b" in line] == [f"shard 0: b{n}" for n in range(3)]
    assert [follow for shard, follow in cluster.reads if shard == 0] == [True, False, False, True, True]
