"""Which tasks of an earlier job are reused where the model does not run here, and what is unknown."""

from __future__ import annotations

import pytest

from mopsjobs.engines.base import Launch
from mopsjobs.ledger.environment import Environment, encode_environment
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.studies.outputs import output_key
from mopsjobs.submission.reuse import Extension, NewJob, environment_difference, find_extended, find_reusable
from mopsjobs.submission.session import Session
from support.runs import sets_of, study

BUNDLE = f"sha256:{'0' * 64}"

HERE = Environment("3.12.4", "cpython", "linux-x86_64", "glibc 2.36", "0.1.0", {"numpy": "2.0", "scipy": "1.14"})


@pytest.fixture
def session() -> Session:
    """Return a session whose registry has `job`, which ran three tasks on Kubernetes."""
    store = InMemoryVersionedStore()
    registry = JobRegistry(store)
    manifest = Manifest(job_id="job", study=study(sets_of(3)), bundle=BUNDLE, engine="kubernetes")
    store.create_if_absent(manifest_key("job"), manifest.to_json())
    for task in manifest.study.tasks():
        store.create_if_absent(output_key("job", task, "result.json"), b"{}")
    registry.register_job("job", engine="kubernetes", tasks_total=3, metadata={"k8s_image": "model:1"})
    registry.finalize_job("job", "failed")
    return Session(registry_url="memory", open_registry=lambda: registry, env={"MOPS_JOBS_IMAGE": "model:1"})


def extension(session: Session, engine: str, python: str | None = None, **options: str) -> Extension:
    """Return what a new job of the same study reuses on an engine."""
    launch = Launch(job_id="more", registry_url="memory", python=python, options=options)
    new = NewJob(study(sets_of(5)), BUNDLE, lambda: b"", False, engine, launch)
    return find_reusable(find_extended("job", session), new, session)


@pytest.mark.parametrize("options", [{"image": "model:1"}, {}], ids=["named", "of the environment"])
def test_a_job_on_a_cluster_is_extended_with_the_same_image(session: Session, options: dict[str, str]) -> None:
    found = extension(session, "kubernetes", **options)
    assert found.describe(5) == "3 of 5 tasks reused from job"
    assert found.reasons == ()


@pytest.mark.parametrize(
    ("python", "options", "reason"),
    [
        (None, {"image": "model:2"}, "its image was model:1, and is model:2 here"),
        ("/opt/python", {"image": "model:1"}, "its python was not given, and is /opt/python here"),
    ],
)
def test_another_image_or_python_of_a_cluster_is_a_difference(
    session: Session, python: str | None, options: dict[str, str], reason: str
) -> None:
    found = extension(session, "kubernetes", python, **options)
    assert (found.task_count, found.reasons) == (0, (f"No task of job is reused: {reason}.",))


def test_a_job_without_a_note_of_its_environment_is_not_reused_here(session: Session) -> None:
    found = extension(session, "local")
    assert found.reasons == ("No task of job is reused: its environment was not noted.",)


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        ({}, None),
        ({"mops_jobs": "9.9"}, None),
        ({"packages": {"numpy": "2.0", "pandas": "2.2"}}, None),
        ({"packages": {"numpy": "1.26"}}, "its numpy was 1.26, and is 2.0 here"),
        ({"python": "3.12.5"}, "its python was 3.12.5, and is 3.12.4 here"),
        ({"libc": None}, "its libc was not given, and is glibc 2.36 here"),
    ],
    ids=str,
)
def test_facts_and_common_packages_decide_on_an_environment(
    session: Session, changed: dict[str, object], difference: str | None
) -> None:
    """The version of mops-jobs does not count, nor does a package that only one side has."""
    session.store.create_if_absent(*encode_environment("job", HERE._replace(**changed)))  # type: ignore[arg-type]
    assert environment_difference("job", HERE, session.store) == difference


def test_each_of_several_environments_has_to_be_the_same(session: Session) -> None:
    """A job that was restarted with other packages does not say which task ran with which."""
    for one in (HERE, HERE._replace(packages={"numpy": "1.26"})):
        session.store.create_if_absent(*encode_environment("job", one))
    assert environment_difference("job", HERE, session.store) == "its numpy was 1.26, and is 2.0 here"


def test_a_job_of_another_engine_is_not_reused_on_a_cluster(session: Session) -> None:
    found = extension(session, "dask", scheduler="tcp://127.0.0.1:9")
    assert found.reasons == ("No task of job is reused: it did not run on dask.",)
