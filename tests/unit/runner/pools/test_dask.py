"""What a pool on Dask makes of workers that are lost, without a cluster."""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mopsjobs.engines.dask import CONNECT_SECONDS
from mopsjobs.errors import EngineUnavailableError
from mopsjobs.ledger.attempt import Outcome
from mopsjobs.runner.pools import dask, dask_checkpoints
from mopsjobs.runner.pools.base import Assignment, TaskResult
from mopsjobs.runner.pools.dask import MAX_LOSSES, DaskPool, _SentTask
from support.runs import sets_of, study

(TASK,) = study(sets_of(1)).tasks()


class _Pool(DaskPool):
    """A pool whose attempts are all lost with their workers. Its runner says whether they had saved before."""

    def __init__(self, root: Path, *, saved: bool) -> None:
        limits = dict.fromkeys(("memory", "timeout", "attempt_timeout", "python"))
        setup = {"scheduler": "", "bundle": "", "setup": {}, "retries": 0, "causes": [], "has_checkpoints": False}
        runner: Any = SimpleNamespace(send=lambda _message: None, kept=None, ask=lambda *_question: saved)
        super().__init__({**setup, **limits, "checkpoints": str(root)}, runner)
        self.attempt: Assignment | None = Assignment(0, TASK)

    def lose(self) -> TaskResult:
        """Lose the attempt. If there is another one, it is `attempt`."""
        assert self.attempt is not None
        client: Any = SimpleNamespace(status="running", get_events=lambda _topic: ())
        future: Any = SimpleNamespace(release=lambda: None)
        self._checkpoints.begin("key", 0, TASK)
        self._sent["key"] = _SentTask(self.attempt, None, future)
        (result,) = (one for one in self._lose(client, "key", 0.01) if one is not None)
        self.attempt = self._queue.next()
        return result


@pytest.mark.parametrize("saved", [False, True])
def test_a_task_that_loses_worker_after_worker_without_a_save_has_failed(tmp_path: Path, *, saved: bool) -> None:
    """It may be what kills them. One that saves goes on for ever, and without a retry."""
    pool = _Pool(tmp_path, saved=saved)
    results = [pool.lose() for _ in range(MAX_LOSSES + 1)]
    assert [(one.outcome, one.attempt) for one in results] == [(Outcome.DIED, number) for number in range(1, 5)]
    assert [one.is_final for one in results] == [False, False, False, not saved]
    assert (pool.attempt is None) == (not saved)
    assert ("as often as the scheduler allows" in str(results[-1].error)) == (not saved)


def test_a_checkpoint_that_comes_slowly_is_waited_for_as_long_as_it_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last one of an attempt that has ended: without it, the work since the one before is lost."""
    now, pieces = [0.0], list[float]()
    monkeypatch.setattr(dask_checkpoints, "time", SimpleNamespace(monotonic=lambda: now[0]))
    checkpoints = _Pool(tmp_path, saved=True)._checkpoints
    checkpoints.begin("key", 0, TASK)
    saved = {"worker": "w", "started_at": 1.0, "number": 1, "at": "5", "path": "p", "size": 5}
    checkpoints.fetch_last("key", saved)

    def read(*_where: object, **_what: object) -> bytes:
        now[0] += 0.9 * dask_checkpoints.FETCH_SECONDS
        pieces.append(now[0])
        assert not checkpoints.has_last("key")
        return b"x"

    monkeypatch.setattr(checkpoints, "on_worker", read)
    checkpoints._fetch(SimpleNamespace(), "key", saved, tmp_path / "fetched")  # type: ignore[arg-type]
    assert len(pieces) == 5
    assert not checkpoints.has_last("key")
    now[0] += 1.1 * dask_checkpoints.FETCH_SECONDS
    assert checkpoints.has_last("key")


@pytest.mark.parametrize("stops", [False, True])
def test_the_end_waits_for_what_the_interpreter_says_unless_it_is_to_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stops: bool
) -> None:
    """A busy worker is slow to give it. A record without it does not say what the tasks ran with."""
    now, sent = [0.0], list[object]()
    monkeypatch.setattr(dask, "time", SimpleNamespace(monotonic=lambda: now[0]))
    pool = _Pool(tmp_path, saved=False)
    pool._send_message = sent.append
    description = pool._description = Future[Any]()
    waiting = pool._await_description(0.0, dask.DESCRIPTION_SECONDS)
    for _ in range(3):
        assert next(waiting) is None
        now[0] += dask.DESCRIPTION_SECONDS / 4
    if stops:
        pool._runner.kept = []
    else:
        description.set_result({"python": "3.12"})
    assert list(waiting) == []
    assert sent == ([] if stops else [{"environment": {"python": "3.12"}}])


def test_a_run_waits_longer_for_a_busy_scheduler_than_a_command_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[float]()

    def connect(_url: str, seconds: float) -> None:
        asked.append(seconds)
        raise EngineUnavailableError("It does not answer.")

    monkeypatch.setattr(dask, "connect", connect)
    with pytest.raises(EngineUnavailableError):
        next(_Pool(tmp_path, saved=False).run(iter(())))
    assert asked[0] >= 10 * CONNECT_SECONDS
