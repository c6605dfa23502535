"""What a model may leave in the drop or in an outbox of its job, without credentials of the registry."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from mopsjobs.registry.keys import BUNDLE, FORMS, MANIFEST, OUTPUT, KeyForm
from mopsjobs.store.directory import MAX_VALUE_BYTES, DirectoryVersionedStore, _directories, _pieces
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.submission.offline import deliver_shards
from mopsjobs.submission.relay import deliver
from mopsjobs.submission.shard_drop import ShardDrop
from support.drops import Site, counts
from support.engines import COMPLETE, RUNNING, state_of
from support.keys import key_of, keys_of
from support.runs import results, sets_of

FOREIGN = [
    "snapshots/manifest.json", "snapshots/20260301T120000-0123abcd/part", "conditions/kept-0123", "notified/job/end-1",
    "changes/20260301T1200/other", "jobs/other/state.json", "jobs/job/manifest.json", "jobs/job/other.json",
    f"bundles/sha256/{'0' * 64}", "results/job/x/1/result.json", f"results/job/{'a' * 64}/1/../x", "RESULTS/job/a/1/b",
    f"results/job%2f..%2fother/{'a' * 64}/1/result.json", f"results/job/{'a' * 64}/1/.hidden", "anything",
]  # fmt: skip


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return a site whose first shard has run."""
    site = Site(tmp_path)
    site.submit(sets_of(2))
    site.work(0)
    return site


def _leave(site: Site, key: str, value: bytes = b"forged") -> Path:
    """Write the file of a key as a model can, which no check of keys stops. Return its path."""
    folder, _, name = key.rpartition("/")
    path = site.directory.drop.joinpath("0", *_directories(folder), *_pieces(name, "f"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(value)
    return path


def _forged(site: Site) -> list[str]:
    return [key for key in site.store.list_keys() if (found := site.store.get(key)) and found.value == b"forged"]


@pytest.mark.claim("A delivery takes nothing of another job")
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_no_key_of_another_job_is_delivered(site: Site, form: KeyForm) -> None:
    """Of any form. The rest of the shard is delivered, and the file is named once and stays."""
    key = key_of(form, "other")
    _leave(site, key)
    site.deliver()
    assert len(results(site.store)) == 1
    assert _forged(site) == []
    (warning,) = site.warnings
    assert warning == f"job: 1 file of {site.directory.drop} that no shard writes stay there, undelivered: {key}"
    site.registry.cancel_job("job")
    deliver_shards(state_of(site.registry, "job"), site.session, COMPLETE)
    assert key in ShardDrop(site.directory.drop, 0).list_keys()


@pytest.mark.parametrize("key", FOREIGN)
def test_no_other_key_is_delivered(site: Site, key: str) -> None:
    _leave(site, key)
    site.deliver()
    assert len(results(site.store)) == 1
    assert _forged(site) == []
    assert len(site.warnings) == 1


def test_the_record_of_a_job_is_never_that_of_a_drop(site: Site) -> None:
    """Its counts alone are taken, by the rules of the registry."""
    drop = ShardDrop(site.directory.drop, 0)
    key = "jobs/job/state.json"
    found = drop.get(key)
    assert found is not None
    assert drop.put(key, found.value.replace(b'"running"', b'"succeeded"'), found.version)
    assert counts(site.deliver()) == ("running", 1, 0)
    assert site.warnings == []


@pytest.mark.claim("A delivery follows no link or pipe")
def test_a_file_of_each_kind_but_a_regular_one_is_left_alone(site: Site, tmp_path: Path) -> None:
    """No link is followed, no pipe or device is waited for, and no loop is entered. The rest is delivered."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "fsecret.json").write_bytes(b"forged")
    folder = site.directory.drop / "0" / "dresults" / "djob" / f"d{'a' * 64}"
    folder.mkdir(parents=True)
    (folder / "d1").symlink_to(outside)
    (folder / "dloop").symlink_to(folder)
    (folder / "d2").mkdir()
    (folder / "d2" / "flink.json").symlink_to(outside / "fsecret.json")
    os.mkfifo(folder / "d2" / "fpipe.json")
    (folder / "d2" / "fnull.json").symlink_to("/dev/zero")
    (folder / "cshort").mkdir()
    (folder / "cshort" / "fer.json").write_bytes(b"forged")
    (folder / "d3").write_bytes(b"a file where a directory belongs")
    (site.directory.drop / "1").symlink_to(outside)
    site.deliver()
    assert len(results(site.store)) == 1
    assert _forged(site) == []
    (warning,) = site.warnings
    assert "7 files" in warning
    assert os.path.lexists(folder / "d2" / "fpipe.json")


def test_a_pipe_in_place_of_a_record_is_an_error_of_that_job(site: Site) -> None:
    """The delivery does not wait for a writer."""
    record = site.directory.drop / "0" / "djobs" / "djob" / "fstate.json"
    record.unlink()
    os.mkfifo(record)
    with pytest.raises(Exception, match="Not allowed to use the directory"):
        site.deliver()


def test_names_that_are_too_deep_or_long_stop_no_delivery(site: Site) -> None:
    """Nor does a name that is not text, or a path that the system does not take."""
    folder = site.directory.drop / "0" / "dresults" / "djob"
    (folder / f"d{'é' * 100}").mkdir()
    (folder / f"d{'é' * 100}" / "fx").write_bytes(b"forged")
    (folder / os.fsdecode(b"d\xff")).mkdir()
    (folder / os.fsdecode(b"d\xff") / "fx").write_bytes(b"forged")
    descriptor, name = os.open(folder, os.O_RDONLY), "c\N{GRINNING FACE}"
    try:
        for _ in range(1000):
            os.mkdir(name, dir_fd=descriptor)
            below = os.open(name, os.O_RDONLY, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        site.deliver()
    finally:
        os.close(descriptor)
        subprocess.run(["rm", "-rf", folder / name], check=True)  # shutil.rmtree takes no such depth
    assert len(results(site.store)) == 1
    assert _forged(site) == []
    assert len(site.warnings) == 1


def test_a_huge_file_is_refused_unread(site: Site) -> None:
    key = OUTPUT.key(job="job", param="a" * 64, seed=1, output="huge.bin")
    path = _leave(site, key)
    os.truncate(path, MAX_VALUE_BYTES + 1)  # it takes no room
    site.deliver()
    assert len(results(site.store)) == 1
    assert site.warnings == [f"{key}: {path} has {MAX_VALUE_BYTES + 1} bytes; at most {MAX_VALUE_BYTES} are read."]


def test_a_file_that_changes_while_it_is_read_waits(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of it would stay for good, as outputs are never replaced. The next delivery takes it."""
    key = OUTPUT.key(job="job", param="a" * 64, seed=1, output="growing.json")
    path = _leave(site, key, b"half")
    fstat = os.fstat

    def and_grow(file: int) -> os.stat_result:
        found = fstat(file)
        if os.path.samestat(found, os.stat(path)):
            with open(path, "ab") as growing:
                growing.write(b" and more")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", and_grow)
        site.deliver()
    assert site.store.get(key) is None
    site.deliver()
    found = site.store.get(key)
    assert found is not None
    assert found.value == path.read_bytes()


def _outbox(site: Site, directory: Path) -> None:
    """Fill the outbox below a directory as a model can: a key of each form and of two jobs, and a wrong bundle."""
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(SQLiteVersionedStore(directory / "outbox.db")) as outbox:
        for key in [*keys_of("other").values(), *keys_of("job").values(), "snapshots/manifest.json", "x"]:
            outbox.create_if_absent(key, b"forged")


@pytest.mark.claim("A delivery takes nothing of another job")
def test_the_outbox_of_a_shard_carries_its_own_job_alone(site: Site) -> None:
    """The rest is named, and removed with it."""
    _outbox(site, site.directory.path / "shards" / "0" / "mops-jobs" / "jobs" / "job")
    deliver_shards(state_of(site.registry, "job"), site.session, RUNNING)
    assert _forged(site) == []
    deliver_shards(state_of(site.registry, "job"), site.session, COMPLETE)
    expected = {
        key_of(form, "job") for form in FORMS if form.name in ("output of a task", "events", "ledger", "environment")
    }
    assert set(_forged(site)) == expected
    assert sum("cannot be delivered, and is removed: it is not of job job." in text for text in site.warnings) > 5


def test_an_outbox_carries_a_manifest_and_true_bundles_of_its_job(tmp_path: Path) -> None:
    store = InMemoryVersionedStore()
    true = BUNDLE.key(bundle=hashlib.sha256(b"forged").hexdigest())
    refused: list[str] = []
    with contextlib.closing(SQLiteVersionedStore(tmp_path / "outbox.db")) as outbox:
        for key in [*keys_of("other").values(), *keys_of("job").values(), true]:
            outbox.create_if_absent(key, b"forged")
        assert deliver(outbox, store, "job", lambda key, _: refused.append(key))
        assert list(outbox.list_keys()) == []
    names = ("output of a task", "events", "ledger", "environment")
    expected = {key_of(form, "job") for form in FORMS if form.name in names} | {MANIFEST.key(job="job"), true}
    assert set(store.list_keys()) == expected
    assert not expected & set(refused)


def test_a_listing_names_what_is_no_value(tmp_path: Path) -> None:
    store = DirectoryVersionedStore(tmp_path)
    store.create_if_absent("a/b", b"1")
    (tmp_path / "da" / "flink").symlink_to("fb")
    assert list(store.list_keys()) == ["a/b"]
    assert store.left_out == [str(tmp_path / "da" / "flink")]
