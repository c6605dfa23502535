"""A submission that is cut short at any request leaves nothing, or a job that `resume` can run."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from mopsjobs.bundles.bundle import bundle_key
from mopsjobs.bundles.packing import pack
from mopsjobs.engines.base import Launch
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import JobExistsError, StoreAccessError, StoreError, StoreUnavailableError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import VersionedStore, VersionToken
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.manifest import Manifest, manifest_key
from mopsjobs.submission.client import submit_job
from mopsjobs.submission.offline import deliver_offline
from mopsjobs.submission.session import Session
from support.cli import LineStore, key
from support.engines import Nowhere
from support.runs import code, sets_of, study


class Killed(BaseException):
    """The process is no more."""


class Mortal(LineStore):
    """A store whose client dies before the request of that number, counted from 0."""

    def __init__(self, inner: VersionedStore, last: int) -> None:
        super().__init__(inner)
        self._left = last

    def _enter(self, method: str) -> None:
        super()._enter(method)
        if self._left == 0:
            raise Killed
        self._left -= 1


def submit(store: VersionedStore, directory: Path) -> str:
    """Submit `job` to that store; the digest of its bundle."""
    session = Session(
        registry_url="memory:", open_registry=lambda: JobRegistry(store), env={"XDG_STATE_HOME": str(directory)}
    )
    with pack(code(directory / "code")) as packed:
        manifest = Manifest(job_id="job", study=study(sets_of(2)), bundle=packed.digest, engine=Nowhere.name)
        launch = Launch(job_id="job", registry_url="memory:")
        submit_job(Nowhere(), session, manifest, launch, packed)  # type: ignore[arg-type]
        return packed.digest


def test_a_submission_that_dies_leaves_nothing_or_all_that_resume_needs(tmp_path: Path) -> None:
    """Whichever request is its last: where there is a record, there are manifest and code; else it can be repeated."""
    digest = submit(InMemoryVersionedStore(), tmp_path)
    left = []
    for last in itertools.count():
        store = InMemoryVersionedStore()
        try:
            submit(Mortal(store, last), tmp_path)
            break
        except Killed:
            state = JobRegistry(store).get_job("job")
        left.append(None if state is None else str(state.status))
        if state is None:
            submit(store, tmp_path)
        assert store.get(manifest_key("job"))
        assert store.get(bundle_key(digest))
    assert left[0] is None
    assert {"pending", "submitting"} <= set(left)


def test_the_id_of_another_job_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    """No manifest comes to lie beside the record of another user's job, also if it is registered at the last moment."""
    store = LineStore(InMemoryVersionedStore())
    others = JobRegistry(store.inner)
    others.register_job("job")
    with pytest.raises(JobExistsError):
        submit(store, tmp_path)
    assert store.inner.get(manifest_key("job")) is None

    class Race(LineStore):
        def create_if_absent(self, name: str, value: bytes) -> object:  # type: ignore[override]
            made = super().create_if_absent(name, value)
            if name == manifest_key("job"):
                JobRegistry(self.inner).register_job("job")
            return made

    race = Race(InMemoryVersionedStore())
    with pytest.raises(JobExistsError):
        submit(race, tmp_path)
    assert race.inner.get(manifest_key("job")) is None
    assert race.inner.get(key("job")) is not None


def test_another_submission_under_the_id_is_not_overwritten(tmp_path: Path) -> None:
    """It was cut short, and may be resumed."""
    store = InMemoryVersionedStore()
    store.create_if_absent(manifest_key("job"), b"{}")
    with pytest.raises(JobExistsError, match="was interrupted"):
        submit(store, tmp_path)
    assert JobRegistry(store).get_job("job") is None


class Taken(LineStore):
    """A store in which another writer registers the job just before, and which cannot remove keys."""

    def __init__(self, inner: VersionedStore, error: StoreError) -> None:
        super().__init__(inner)
        self._error = error

    def create_if_absent(self, key_: str, value: bytes) -> VersionToken | None:
        if key_ == key("job"):
            JobRegistry(self.inner).register_job("job")
        return super().create_if_absent(key_, value)

    def delete(self, key_: str) -> bool:
        raise self._error


@pytest.mark.parametrize("kind", [StoreAccessError, StoreUnavailableError])
def test_an_id_taken_meanwhile_is_refused_whatever_the_cleanup_meets(tmp_path: Path, kind: type[StoreError]) -> None:
    """Any other error would count as an outage, and launch the job under the id of another one."""
    store = Taken(InMemoryVersionedStore(), kind("no deletion"))
    with pytest.raises(JobExistsError):
        submit(store, tmp_path)
    assert manifest_key("job") in store.inner.list_keys()


def test_what_was_kept_is_registered_though_its_manifest_had_arrived(tmp_path: Path) -> None:
    """A registry that went away between manifest and record gets the record by the delivery."""
    store = InMemoryVersionedStore()
    submit(store, tmp_path)
    kept = SQLiteVersionedStore(JobDir(tmp_path / "job").outbox)
    found = store.get(manifest_key("job"))
    assert found is not None
    kept.create_if_absent(manifest_key("job"), found.value)
    kept.close()
    store.delete(key("job"))
    registry = JobRegistry(store)
    session = Session(registry_url="memory:", open_registry=lambda: registry, env={})
    assert deliver_offline(JobDir(tmp_path / "job"), "job", session)
    assert registry.get_job("job") is not None
