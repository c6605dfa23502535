"""The outputs of tasks for a reduction: a few tasks at a time, in one order, and through outages."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from mopsjobs.runner import reducer
from mopsjobs.runner.reducer import BATCH_TASKS, OutputFeed
from mopsjobs.runner.retry import OutageRetry
from mopsjobs.studies.manifest import NAMES_NAME, Manifest
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
    monkeypatch.setattr(reducer, "BATCH_BYTES", 1)
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


def test_an_output_that_the_store_refuses_is_named(feed: OutputFeed, line: LineStore) -> None:
    """Only an outage may pass with time, so only it is waited for."""
    key = line.refused_key = output_key("job", TASKS[0], "result.json")
    one = Task(101, TASKS[0].param_id, 0, {})
    problem = f"{key} cannot be read: The store refused the credentials."
    assert json.loads(feed.next_line(one, is_first=True)) == {"problem": problem}


def test_a_task_with_a_result_of_no_outputs_comes_without_outputs(feed: OutputFeed, line: LineStore) -> None:
    """It is complete by its names, and is one of the number that the function gets. Such a study names no outputs."""
    last, job = TASKS[99], dataclasses.replace(JOB, study=dataclasses.replace(STUDY, outputs=None))
    line.create_if_absent(output_key("job", last, NAMES_NAME), b"[]")
    complete = find_reductions(line, [job]).complete
    with closing(OutputFeed(line, [job], complete, OutageRetry(1.0, lambda _seconds: None))) as made:
        for reduction, count in ((Task(101, last.param_id, 0, {}), 10), (WHOLE, 100)):
            tasks = [task for batch in loop(made, reduction) for task in batch]
            assert len({task["task"] for task in tasks}) == len(tasks) == count
            (empty,) = [task for task in tasks if not task["outputs"]]
            of_study = (last.number, dict(last.params), last.param_id, last.seed)
            assert tuple(empty[name] for name in ("task", "params", "param_id", "seed")) == of_study


def test_tasks_that_share_their_outputs_come_once(line: LineStore) -> None:
    twice = study([{"x": 1}, {"x": 1}], n_replicates=2, reduce="model:summarise")
    tasks = list(twice.tasks())[:2]
    for task in tasks:
        line.create_if_absent(output_key("job", task, "result.json"), b"1")
    job = Manifest(job_id="job", study=twice, bundle=JOB.bundle)
    complete = find_reductions(line, [job]).complete
    with closing(OutputFeed(line, [job], complete, OutageRetry(1.0, lambda _seconds: None))) as made:
        (found,) = loop(made, Task(4, tasks[0].param_id, 0, {}))
        assert sorted(task["task"] for task in found) == [0, 1]


def test_the_listing_of_a_reduction_that_has_ended_is_dropped(feed: OutputFeed) -> None:
    """Also if its function has left its loop, or ended before the last answer."""
    answer(feed, WHOLE, is_first=True)
    assert feed._batches
    feed.end(WHOLE.number)
    assert (feed._batches, feed._places) == ({}, {})
    feed.end(WHOLE.number)
