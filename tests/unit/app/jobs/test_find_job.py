"""Find a job from Python: in the cache, in the registry, or in an engine."""

from __future__ import annotations

import json

import pytest

from mopsjobs.app.jobs.find_job import find_job
from mopsjobs.app.run.freshness import FreshnessPolicy
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import LATEST, JobNotFoundError, ShortName, StoreUnavailableError
from support.cli import Cli, Remote, add, key

AS_IT_IS = FreshnessPolicy()
REFRESH = FreshnessPolicy(refresh=True)
OFFLINE = FreshnessPolicy(offline=True)


@pytest.fixture(autouse=True)
def synced(cli: Cli, remote: Remote) -> None:
    """Fill a cache with the job `nightly-1`."""
    add(remote.jobs, "nightly-1", owner="ada")
    cli.ok("sync")


def _launch_here(cli: Cli, job_id: str, **note: str) -> None:
    directory = JobDir.for_job(job_id, cli.env).path
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "runner.json").write_text(json.dumps(note))


@pytest.mark.parametrize("name", ["nightly-1", LATEST])
def test_a_job_of_the_cache_comes_with_its_age(cli: Cli, remote: Remote, name: str) -> None:
    """The full id and `LATEST` are read from the cache, without a request."""
    remote.store.down = True
    found = find_job(name, cli.app(), AS_IT_IS)
    assert (found.job["job_id"], found.job["owner"]) == ("nightly-1", "ada")
    assert found.freshness is not None
    assert found.freshness.describe() == "synced just now"
    assert (found.warnings, found.engine) == ((), None)


def test_a_prefix_stands_for_an_id_if_the_registry_has_no_such_job(cli: Cli, remote: Remote) -> None:
    """It costs one request for a record. A text that is not a short name never is a prefix."""
    with pytest.raises(JobNotFoundError) as caught:
        find_job("night", cli.app(), AS_IT_IS)
    assert (caught.value.candidates, caught.value.hint) == (
        ("nightly-1",),
        "Give the full id. These begin with it: nightly-1",
    )
    remote.store.calls.clear()
    assert find_job(ShortName("night"), cli.app(), AS_IT_IS).job["job_id"] == "nightly-1"
    assert dict(remote.store.calls) == {"get": 1}
    add(remote.jobs, "night")
    assert find_job(ShortName("night"), cli.app(), AS_IT_IS).job["job_id"] == "night"


def test_a_prefix_stands_for_no_id_that_the_registry_cannot_deny(cli: Cli, remote: Remote) -> None:
    """Another machine may have registered a job of that id: neither offline nor in an outage another one is shown."""
    with pytest.raises(JobNotFoundError, match=r"Job night not found\."):
        find_job(ShortName("night"), cli.app(), OFFLINE)
    remote.store.down = True
    with pytest.raises(StoreUnavailableError) as caught:
        find_job(ShortName("night"), cli.app(), AS_IT_IS)
    assert "nightly-1" in str(caught.value.hint)


def test_a_job_that_the_cache_lacks_is_read_from_the_registry(cli: Cli, remote: Remote) -> None:
    """Data from the registry has no age. Without the network there is no such job, until it was read once."""
    add(remote.jobs, "new")
    with pytest.raises(JobNotFoundError):
        find_job("new", cli.app(), OFFLINE)
    found = find_job("new", cli.app(), AS_IT_IS)
    assert (found.job["job_id"], found.freshness, found.warnings) == ("new", None, ())
    assert find_job("new", cli.app(), OFFLINE).job["job_id"] == "new"


def test_a_refresh_falls_back_to_the_cache_with_a_warning(cli: Cli, remote: Remote) -> None:
    """With `refresh`, the registry is read first; in an outage, the last known state and the reason are returned."""
    remote.jobs.update_status("nightly-1", "submitting")
    found = find_job("nightly-1", cli.app(), REFRESH)
    assert (found.job["status"], found.freshness) == ("submitting", None)
    remote.store.down = True
    found = find_job("nightly-1", cli.app(), REFRESH)
    assert (found.job["status"], found.freshness is None) == ("submitting", False)
    assert found.warnings == ("Cannot reach the registry: connection refused. Showing the cache.",)


def test_an_engine_answers_in_an_outage(cli: Cli, remote: Remote) -> None:
    """A job that only an engine knows has its answer; with `offline`, the outage is raised."""
    _launch_here(cli, "mine")
    remote.store.down = True
    found = find_job("mine", cli.app(), AS_IT_IS)
    assert found.engine is not None
    assert (found.engine.engine, found.engine.state.phase) == ("local", "gone")
    assert (found.job["job_id"], found.job["engine"], found.job["status"]) == ("mine", "local", None)
    assert found.warnings[0].endswith("Showing what the local engine says, not the job's record.")
    _launch_here(cli, "mine", registry=cli.app().settings.registry_id)
    assert find_job("mine", cli.app(), AS_IT_IS).engine is not None
    _launch_here(cli, "mine", registry="sqlite:////elsewhere.db")
    with pytest.raises(StoreUnavailableError) as caught:
        find_job("mine", cli.app(), AS_IT_IS)
    said = "The job of this id on this machine is of another registry: sqlite:////elsewhere.db."
    assert str(caught.value.hint).startswith(said)
    cli.cache.unlink()
    with pytest.raises(StoreUnavailableError):
        find_job("mine", cli.app(), OFFLINE)


def test_a_refresh_does_not_find_a_job_that_is_gone(cli: Cli, remote: Remote) -> None:
    """The cache has its row until the next scan. No prefix stands for that."""
    add(remote.jobs, "job", "succeeded")
    cli.ok("sync")
    remote.store.delete(key("job"))
    with pytest.raises(JobNotFoundError):
        find_job(ShortName("job"), cli.app(), REFRESH)
    assert "is short for" not in cli("status", "job", "--refresh").err
