"""Sequences of commands, after each of which all views of each job agree: the quick part of `reliability/views/`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from reliability.trial import Trial
from reliability.views import reading
from reliability.views.acts import THEMES
from reliability.views.model import Job, Study, World
from reliability.views.reading import Statements
from reliability.views.sequences import over

LENGTH = 4
STORES = ["sqlite", pytest.param("azure", marks=pytest.mark.azurite)]


@pytest.mark.parametrize("store", STORES)
def test_after_each_command_all_views_agree_with_the_model(tmp_path: Path, store: str) -> None:
    """Commands of two machines, programs that write records, kills, prunes and lost outputs."""
    counts: Counter[str] = Counter()
    steps = LENGTH * len(THEMES)
    found = list(over(Trial(tmp_path, seed=1), store, steps, counts, LENGTH))
    assert not found, "\n".join(f"{one.sequence}: {one.text}" for one in found)
    assert counts["steps"] == steps
    assert counts["looks at all views of a job"] > 0


def test_two_values_of_one_fact_are_a_contradiction() -> None:
    """A fact that a view leaves open is none."""
    said = Statements()
    said.add("list", {"status": "running", "total": 4, "note": None})
    said.add("page", {"status": "failed", "total": 4, "note": "seen"})
    assert list(said.contradictions()) == ["status: 'running' (list); 'failed' (page)"]


def test_a_table_with_a_lost_value_that_no_view_tells_is_told() -> None:
    row = {"task": 0, "job_id": "exp-2", "status": "succeeded", "x": 1, "seed": 7, "y": None}
    silent = reading.rows([row], is_told=False)
    assert silent["values that are missing, and not told"] == (0,)
    assert silent["means"] == ((1, 0, None),)
    assert reading.rows([row], is_told=True)["values that are missing, and not told"] == ()


def test_the_model_keeps_a_family_until_all_of_it_has_ended() -> None:
    world = World()
    study = Study("s", ("ok", "fail-once"), 1)
    for step, job_id, parent in ((0, "exp-2", None), (3, "exp-2.2", "exp-2"), (0, "exp-20", None)):
        world.step = step
        job = world.jobs[job_id] = Job(job_id, parent=parent, study=study)
        world.run(job, [0, 1] if parent is None else [1])
        world.changed(job_id, "a")
        world.repaired.add("s")
    assert world.rows("exp-2.2") == {0: ("exp-2", "succeeded"), 1: ("exp-2.2", "succeeded")}
    world.prune("a", before_step=2)
    assert world.caches["a"].pruned == {"exp-20"}
    world.prune("a", before_step=4)
    assert world.caches["a"].pruned == {"exp-2", "exp-2.2", "exp-20"}


@pytest.mark.parametrize(("least", "rows"), [(None, ["exp", "exp.2"]), (1, ["exp.2", "exp.2"])])
def test_in_the_model_the_child_of_an_adaptive_job_has_all_its_tasks(least: int | None, rows: list[str]) -> None:
    """Other children have those that are missing."""
    world = World()
    study = Study("s", ("ok", "fail-once"), 1, least)
    parent, child = Job("exp", study=study), Job("exp.2", parent="exp", study=study)
    world.jobs = {"exp": parent}
    world.run(parent, [0, 1])
    child.reused = world.taken_over("exp")
    world.repaired.add("s")
    world.run(child, [*world.missing("exp")])
    world.jobs["exp.2"] = child
    assert [owner for _, (owner, _) in sorted(world.rows("exp.2").items())] == rows
    assert (child.completed, child.total) == ((1, 1) if least is None else (2, 2))
