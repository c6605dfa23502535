"""The outputs of tasks for a reduction: a few tasks at a time, in one order, and through outages."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from mopsjobs.runner import output_feed
from mopsjobs.runner.output_feed import BATCH_TASKS, OutputFeed
from mopsjobs.runner.retry import OutageRetry
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.outputs import WHOLE_JOB, output_key
from mopsjobs.studies.reductions import find_reductions
from mopsjobs.studies.study import Task
from support.cli import LineStore
from support.runs import sets_of, study

STUDY = study(sets_of(10), n_replicates=10, reduce="model:summarise")
TASKS = list(STUDY.tasks())
JOB = Manifest(job_id="job", study=STUDY, bundle="sha256:" + "0" * 64)
WHOLE = Task(100, WHOLE_JOB, 0, {})


@pytest.fixture
def feed(line: LineStore) -> Iterator[OutputFeed]:
    """Yield a feed of 99 of 100 tasks, from a store whose listings have no values."""
    for task in TASKS[:99]:
        line.create_if_absent(output_key("job", task, "result.json"), b"%d" % task.number)
    line.hides_values = True
    complete = find_reductions(line, [JOB]).complete
    retry = OutageRetry(100.0, lambda _seconds: None)
    with closing(OutputFeed(line, [JOB], complete, retry)) as made:
        yield made


def answer(feed: OutputFeed, reduction: Task, *, is_first: bool = False) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(feed.next_line(reduction, is_first=is_first))["tasks"]
    return found


def loop(feed: OutputFeed, reduction: Task) -> Iterator[list[dict[str, Any]]]:
    """Yield the answers of one loop over the tasks."""
    found = answer(feed, reduction, is_first=True)
    while found:
        yield found
        found = answer(feed, reduction)


def test_no_more_outputs_are_read_than_one_answer_has(feed: OutputFeed, line: LineStore) -> None:
    """So memory does not grow with the tasks: here 99 outputs, of which at most 16 are open at once."""
    seen, before = [], line.calls["get"]
    for tasks in loop(feed, WHOLE):
        opened = line.calls["get"] - before - len(seen)
        assert opened == len(tasks) <= BATCH_TASKS
        seen += [task["task"] for task in tasks]
    assert sorted(seen) == list(range(99))


def test_a_large_output_is_alone(feed: OutputFeed, monkeypatch: pytest.MonkeyPatch, line: LineStore) -> None:
    """As far as the listing tells sizes."""
    monkeypatch.setattr(output_feed, "BATCH_BYTES", 1)
    line.hides_values = False
    assert {len(tasks) for tasks in loop(feed, WHOLE)} == {1}


def test_a_second_loop_reads_the_same_in_the_same_order(feed: OutputFeed) -> None:
    """Also if the first one was left in the middle. Two reductions do not disturb each other."""
    first = answer(feed, WHOLE, is_first=True)
    one = Task(101, TASKS[20].param_id, 0, {})
    of_set = [task for tasks in loop(feed, one) for task in tasks]
    assert [task["params"] for task in of_set] == [{"x": 2}] * 10
    following = answer(feed, WHOLE)
    assert following != first
    assert list(loop(feed, WHOLE))[:2] == [first, following]


@pytest.mark.parametrize("method", ["get", "scan"])
def test_an_outage_repeats_no_task_and_leaves_none_out(feed: OutputFeed, line: LineStore, method: str) -> None:
    seen = []
    for tasks in loop(feed, WHOLE):
        seen += [task["task"] for task in tasks]
        line.fail_next(1, method)
    assert sorted(seen) == list(range(99))


def test_an_output_that_is_gone_is_named(feed: OutputFeed, line: LineStore) -> None:
    key = output_key("job", TASKS[0], "result.json")
    one = Task(101, TASKS[0].param_id, 0, {})
    line.after_listing = lambda: line.delete(key) and None
    assert json.loads(feed.next_line(one, is_first=True)) == {"problem": f"{key} was deleted"}
