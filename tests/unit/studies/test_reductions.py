"""Reductions of a study: which are due, in a job and in its family, and where their outputs are."""

from __future__ import annotations

import pytest

from mopsjobs.registry.keys import NAMES_NAME
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.studies.outputs import find_complete_tasks, output_key, reduction_key
from mopsjobs.studies.reductions import find_reductions, lacks_reductions
from mopsjobs.studies.results import outputs_of
from support.runs import sets_of, study

STUDY = study(sets_of(3), n_replicates=2, reduce="model:summarise")
TASKS = list(STUDY.tasks())
IDS = [TASKS[2 * number].param_id for number in range(3)]
PARENT = Manifest(job_id="job", study=STUDY, bundle="sha256:" + "0" * 64)
CHILD = Manifest(job_id="job.2", study=STUDY, bundle=PARENT.bundle, only=(3, 4, 5), parent_job_id="job")
GRANDCHILD = Manifest(job_id="job.3", study=STUDY, bundle=PARENT.bundle, only=(4, 5), parent_job_id="job.2")
FAMILY = [CHILD, PARENT]


@pytest.fixture
def store() -> InMemoryVersionedStore:
    """Yield a store with a parent that has done the first three of six tasks, and reduced them; and with its child."""
    made = InMemoryVersionedStore()
    for manifest in FAMILY:
        made.create_if_absent(manifest_key(manifest.job_id), manifest.to_json())
    for task in TASKS[:3]:
        made.create_if_absent(output_key("job", task, "result.json"), b"{}")
    for param_id, tasks in ((IDS[0], 2), (IDS[1], 1), (None, 3)):
        reduce(made, "job", param_id, tasks)
    return made


def reduce(store: InMemoryVersionedStore, job_id: str, param_id: str | None, tasks: int, *names: str) -> None:
    """Store the outputs of a reduction as a runner does."""
    for name in names or ("result.json", NAMES_NAME):
        store.create_if_absent(reduction_key(job_id, param_id, tasks, name), job_id.encode())


def due(store: InMemoryVersionedStore, *family: Manifest) -> list[tuple[str | None, int, int]]:
    return [(one.param_id, one.tasks, one.missing) for one in find_reductions(store, family).due]


def test_a_reduction_is_due_again_if_more_tasks_are_complete(store: InMemoryVersionedStore) -> None:
    """That of a set without tasks is not, and that of a set without new tasks is not made again."""
    assert due(store, PARENT) == due(store, CHILD, PARENT) == []
    store.create_if_absent(output_key("job.2", TASKS[3], "result.json"), b"{}")
    assert due(store, CHILD, PARENT) == [(IDS[1], 2, 0), (None, 4, 2)]
    assert lacks_reductions(store, CHILD)
    reduce(store, "job.2", None, 4)
    assert due(store, CHILD, PARENT) == [(IDS[1], 2, 0)]
    reduce(store, "job.2", IDS[1], 2)
    assert not lacks_reductions(store, CHILD)


def test_a_reduction_without_its_names_was_cut_off(store: InMemoryVersionedStore) -> None:
    """The names are written last, also if there are no outputs."""
    store.create_if_absent(output_key("job", TASKS[4], "result.json"), b"{}")
    reduce(store, "job", IDS[2], 1, "a.csv")
    reduce(store, "job", None, 4, NAMES_NAME)
    assert due(store, PARENT) == [(IDS[2], 1, 1)]


def test_tasks_that_share_their_outputs_count_once() -> None:
    """A study may name a parameter set twice."""
    store, twice = InMemoryVersionedStore(), study([{"x": 1}, {"x": 1}], n_replicates=2, reduce="model:summarise")
    for task in list(twice.tasks())[:2]:
        store.create_if_absent(output_key("job", task, "result.json"), b"{}")
    manifest = Manifest(job_id="job", study=twice, bundle=PARENT.bundle)
    assert [one[1:] for one in due(store, manifest)] == [(2, 0), (2, 0)]


def test_outputs_of_reductions_change_no_count_of_tasks(store: InMemoryVersionedStore) -> None:
    """Without a reduce function in the study, they are outputs of no task."""
    found = find_complete_tasks(store, PARENT)
    assert (found.count, found.unexpected, found.reduced) == (3, 0, {IDS[0]: 2, IDS[1]: 1, "all": 3})
    plain = Manifest(job_id="job", study=study(sets_of(3), n_replicates=2), bundle=PARENT.bundle)
    found = find_complete_tasks(store, plain)
    assert (found.count, found.unexpected, found.reduced) == (3, 6, {})


@pytest.mark.parametrize("name", ["reduced-0", "reduced-", "reduced-03", "reduced-1234567890"])
def test_another_name_is_not_that_of_a_reduction(store: InMemoryVersionedStore, name: str) -> None:
    store.create_if_absent(f"results/job/all/{name}/result.json", b"{}")
    store.create_if_absent(f"results/job/other/{name}/result.json", b"{}")
    assert find_complete_tasks(store, PARENT).unexpected == 2


def test_results_have_only_the_last_complete_reduction_of_each_set(store: InMemoryVersionedStore) -> None:
    """A child that was killed before the names hides nothing. By their names, 10 comes before 8, and 8 before x."""
    reduce(store, "job.2", IDS[1], 2, "result.json")
    for tasks in (8, 10):
        reduce(store, "job", IDS[0], tasks)
    reduce(store, "job", IDS[0], 12, "a.csv")
    store.create_if_absent(f"results/job/{IDS[0]}/reduced-x/result.json", b"{}")
    listed = [one for one in outputs_of(store, "job.2", FAMILY) if one.task is None]
    assert sorted((one.name, one.reduced is not None) for one in listed) == sorted(
        [
            (f"{IDS[0]}/reduced-10/result.json", True),
            (f"{IDS[0]}/reduced-x/result.json", False),
            (f"{IDS[1]}/reduced-1/result.json", True),
            ("all/reduced-3/result.json", True),
        ]
    )


def seen(store: InMemoryVersionedStore, *younger: Manifest) -> list[tuple[str | None, int]]:
    """Return which reductions the child's family has, as they are listed, set by set or all at once."""
    family = [*younger, *FAMILY]
    below = [f"{param_id}/" for param_id in (*IDS, "all")]
    listed, apart = (
        [one.reduced for part in parts for one in outputs_of(store, family[0].job_id, family, part) if one.reduced]
        for parts in ([""], below)
    )
    assert sorted(listed, key=str) == sorted(apart, key=str)
    return [(one.param_id, one.tasks) for one in listed]


def test_a_reduction_that_left_nothing_hides_that_of_a_parent(store: InMemoryVersionedStore) -> None:
    """The function returned None for more tasks. The other sets have what the parent made."""
    reduce(store, "job.2", None, 4, NAMES_NAME)
    assert sorted(seen(store), key=str) == sorted([(IDS[0], 2), (IDS[1], 1)], key=str)


def test_outputs_of_new_tasks_hide_the_reductions_of_a_parent(store: InMemoryVersionedStore) -> None:
    """Those lack these tasks, also if the function fails over more of them. Nothing else hides them."""
    unchanged = seen(store)
    assert len(unchanged) == 3
    for name in (f"{IDS[1]}/7/result.json", "other/1/result.json"):
        store.create_if_absent(f"results/job.2/{name}", b"of no task")
    assert seen(store) == unchanged
    store.create_if_absent(output_key("job.2", TASKS[3], "result.json"), b"{}")
    assert seen(store) == [(IDS[0], 2)]
    reduce(store, "job.2", IDS[1], 2)
    assert sorted(seen(store)) == sorted([(IDS[1], 2), (IDS[0], 2)])
    assert sorted(one.reduced.tasks for one in outputs_of(store, "job", [PARENT]) if one.reduced) == [1, 2, 3]


def test_what_is_shown_of_a_parent_is_what_counts_as_done(store: InMemoryVersionedStore) -> None:
    """A task that was cut off hides nothing, nor does one that the parent has too; also in three generations."""
    unchanged = seen(store)
    for job_id, task in (("job.2", TASKS[3]), ("job.2", TASKS[4]), ("job.3", TASKS[4])):
        store.create_if_absent(output_key(job_id, task, "a.csv"), b"")
    assert due(store, *FAMILY) == due(store, GRANDCHILD, *FAMILY) == []
    assert seen(store) == seen(store, GRANDCHILD) == unchanged
    store.create_if_absent(output_key("job.2", TASKS[3], "result.json"), b"{}")
    assert due(store, GRANDCHILD, *FAMILY) == [(IDS[1], 2, 0), (None, 4, 2)]
    assert seen(store, GRANDCHILD) == [(IDS[0], 2)]
    store.create_if_absent(output_key("job", TASKS[3], "result.json"), b"{}")
    reduce(store, "job", IDS[1], 2)
    reduce(store, "job", None, 4)
    assert due(store, *FAMILY) == due(store, GRANDCHILD, *FAMILY) == []
    assert len(seen(store)) == len(seen(store, GRANDCHILD)) == 3
