"""The end of a shard of a study with a reduce function: which shard calls it, and which one ends the job."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.runner.output_sender import OutputSender
from mopsjobs.runner.reducer import ReduceEnd
from mopsjobs.runner.reporter import Counts, Reporter
from mopsjobs.runner.result_handler import ResultHandler
from mopsjobs.runner.retry import OutageRetry
from mopsjobs.runner.shard import Shard
from mopsjobs.runner.shard_end import ShardEnd, shard_end_class
from mopsjobs.store.memory import InMemoryVersionedStore
from support.cli import LineStore
from support.runs import Given, record, sets_of

pytestmark = pytest.mark.usefixtures("quick_runner")


class _Handler:
    first_error = None


def test_only_the_last_shard_reduces_and_ends_the_job(given: Given, line: LineStore, registry: JobRegistry) -> None:
    """The first one finds all shards done when it reports its end, while the other one still reduces."""
    given(sets_of(2), reduce="model:summarise")
    calls: list[int] = []

    def finish(number: int, after_report: Any = lambda: None) -> None:
        counts = Counts()
        reporter = Reporter(registry, "job", number, 2, counts, register=lambda: None)
        report_done = reporter.report_done

        def reported() -> Any:
            state = report_done()
            after_report()
            return state

        def reduce() -> ReduceEnd:
            calls.append(number)
            assert not record(registry).is_terminal
            return ReduceEnd(True)

        reporter.report_done = reported  # type: ignore[method-assign]
        retry = OutageRetry(1.0, lambda _seconds: None)
        end = ShardEnd(Shard("job", number, 2), line, registry, retry, counts, lambda _text: None)
        sender = OutputSender(line, InMemoryVersionedStore())
        try:
            end.finish(reporter, sender, cast("ResultHandler", _Handler()), None, reduce, is_done=True)
        finally:
            reporter.stop()
            sender.finish()

    def other_reports() -> None:
        reporter = Reporter(registry, "job", 1, 2, Counts(), register=lambda: None)
        try:
            reporter.report_done()
        finally:
            reporter.stop()

    finish(0, other_reports)
    assert calls == []
    assert not record(registry).is_terminal
    finish(1)
    assert calls == [1]
    assert record(registry).status == "failed"  # no task has left outputs


def test_outputs_that_a_drop_does_not_take_are_for_the_login_node(
    line: LineStore, registry: JobRegistry, tmp_path: Path
) -> None:
    """The node has no command that delivers them, and no user who runs the job again there."""
    line.down, outbox = True, InMemoryVersionedStore()
    outbox.create_if_absent(f"results/job/{'a' * 64}/1/out", b"x")
    said: list[str] = []
    counts, retry = Counts(), OutageRetry(0.0, lambda _seconds: None)
    reporter = Reporter(registry, "job", 0, 1, counts, register=lambda: None)
    shard = Shard("job", drop=tmp_path)
    end = shard_end_class(shard)(shard, line, registry, retry, counts, said.append)
    sender = OutputSender(line, outbox)
    try:
        result = end.finish(reporter, sender, cast("ResultHandler", _Handler()), None, None, is_done=True)
    finally:
        reporter.stop()
        sender.finish()
    assert (result.status, result.is_done) == (None, False)
    assert "Commands on the login node deliver them." in said[-1]
    assert "run the job again" not in said[-1]
