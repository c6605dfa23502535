"""The logs of pods, from a cluster that gives what a test has put there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import pytest

from mopsjobs.engines.kubernetes.client import INDEX_LABEL, Cluster
from mopsjobs.engines.kubernetes.logs import MAX_FAILURES, Window, read_lines
from mopsjobs.errors import EngineUnavailableError

WHOLE = Window()
SILENCE = EngineUnavailableError("no answer", sent=True, silent=True)
AWAY = EngineUnavailableError("cannot reach the cluster", sent=False)


def _line(second: int, text: str) -> str:
    return f"2026-03-01T00:00:{second:02}.5Z {text}"


class _Logs:
    """The logs of pods by shard, each some lines or an error. `on_round` is called before each listing."""

    def __init__(self) -> None:
        self.logs: dict[int, list[str] | EngineUnavailableError] = {}
        self.phases: dict[int, str] = {}
        self.asked: list[tuple[int, Mapping[str, str]]] = []
        self.on_round: Callable[[int], object] = lambda _number: None
        self.rounds = 0

    def log(self, _namespace: str, pod: Mapping[str, Any], params: Mapping[str, str]) -> Iterator[str]:
        shard = int(pod["metadata"]["uid"])
        self.asked.append((shard, params))
        found = self.logs[shard]
        if isinstance(found, EngineUnavailableError):
            raise found
        since = params.get("sinceTime", "")[:19]
        yield from (line for line in found if line[:19] >= since)

    def read(self, window: Window = WHOLE, *, rounds: int = 0) -> Iterator[str]:
        """Yield the lines of some rounds; 0: do not follow."""

        def list_pods() -> tuple[bool, list[dict[str, Any]]]:
            self.rounds += 1
            self.on_round(self.rounds)
            return self.rounds == rounds, [self._pod(shard) for shard in sorted(self.logs)]

        cluster = cast("Cluster", self)
        return read_lines(cluster, "models", list_pods, window, lambda _seconds: None, follow=bool(rounds))

    def _pod(self, shard: int) -> dict[str, Any]:
        metadata = {"name": f"a-{shard}", "uid": str(shard), "labels": {INDEX_LABEL: str(shard)}}
        spec = {"nodeName": f"n{shard}", "containers": [{"name": "proxy"}, {"name": "runner"}]}
        return {"metadata": metadata, "spec": spec, "status": {"phase": self.phases.get(shard, "Running")}}


@pytest.fixture
def logs() -> _Logs:
    return _Logs()


def test_a_followed_log_goes_on_where_it_was(logs: _Logs) -> None:
    """What was read is not read again, also of lines of one instant. A pod that has ended is not asked again."""
    lines = [_line(1, "a"), _line(2, "b"), _line(2, "c"), _line(2, "d"), "the kubelet's words", _line(3, "e")]

    def grow(number: int) -> None:
        logs.logs = {0: lines[: 2 * number - 1]} if number > 1 else {0: []}
        logs.phases = {0: "Pending" if number == 1 else "Running" if number < 4 else "Succeeded"}

    logs.on_round = grow
    assert list(logs.read(rounds=6)) == ["a", "b", "c", "d", "the kubelet's words", "e"]
    assert [params.get("sinceTime") for _, params in logs.asked] == [
        None, "2026-03-01T00:00:02+00:00", "2026-03-01T00:00:02+00:00",
    ]  # fmt: skip


def test_tail_and_since_are_for_the_first_read(logs: _Logs) -> None:
    """The cluster cuts each log, and of all shards the last lines are shown. Later lines are shown whole."""
    logs.logs = {0: [_line(1, "a")], 1: [_line(1, "b")]}
    logs.on_round = lambda number: number == 2 and logs.logs[1].extend([_line(2, "c"), _line(2, "d")])  # type: ignore[union-attr]
    assert list(logs.read(Window(1, 0.5), rounds=2)) == ["shard 1: b", "shard 1: c", "shard 1: d"]
    assert logs.asked[:2] == [
        (shard, {"container": "runner", "sinceSeconds": "1", "tailLines": "1"}) for shard in (0, 1)
    ]


@pytest.mark.parametrize("rounds", [0, 3])
def test_a_node_that_is_gone_hides_no_other_log(logs: _Logs, caplog: pytest.LogCaptureFixture, *, rounds: int) -> None:
    """The shards that can be read are shown. The other one is named once meanwhile, and as an outage at the end."""
    logs.logs = {0: SILENCE, 1: [_line(1, "a")], 2: EngineUnavailableError("500: i/o timeout.", sent=True)}
    told = logs.read(rounds=rounds)
    assert next(told) == "shard 1: a"
    words = r"The log of shard 0 on node n0 cannot be read: no answer in time\. 1 more pod cannot be read either\."
    with pytest.raises(EngineUnavailableError, match=words):
        list(told)
    assert [message.partition(": ")[2] for message in caplog.messages] == [
        "The log of shard 0 on node n0 cannot be read: no answer in time.",
        "The log of shard 2 on node n2 cannot be read: 500: i/o timeout.",
    ]


def test_a_node_that_answers_again_hides_nothing(logs: _Logs) -> None:
    logs.logs = {0: SILENCE, 1: []}
    logs.on_round = lambda number: number == 2 and logs.logs.update({0: [_line(1, "a")]})
    assert list(logs.read(rounds=3)) == ["shard 0: a"]


def test_following_outlives_a_cluster_that_is_away_for_a_moment(logs: _Logs) -> None:
    """A cluster that stays away ends it, and so does one that goes away while a log is read."""

    def go_away(number: int) -> None:
        if 1 < number <= 3 or number > 4:
            raise AWAY

    logs.logs, logs.on_round = {0: [_line(1, "a")]}, go_away
    told = logs.read(rounds=99)
    assert next(told) == "a"
    with pytest.raises(EngineUnavailableError, match="cannot reach the cluster"):
        next(told)
    assert logs.rounds == 4 + MAX_FAILURES + 1
    logs.logs, logs.on_round = {0: AWAY}, lambda _number: None
    with pytest.raises(EngineUnavailableError, match="cannot reach the cluster"):
        list(logs.read(rounds=99))
