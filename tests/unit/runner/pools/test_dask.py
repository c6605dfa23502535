"""What a pool on Dask makes of workers that are lost, without a cluster."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mopsjobs.ledger.attempt import Outcome
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
