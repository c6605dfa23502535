"""The probe of conditional writes over each backend, and the first writes to a registry in S3."""

from __future__ import annotations

from contextlib import closing

from mopsjobs.store import open_store
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.condition_probe import NOTES, ProbeResult, probe_conditions
from support.servers import S3


def test_each_backend_passes_the_probe(store: VersionedStore) -> None:
    """Real servers keep all conditions, and no key of the probe."""
    assert probe_conditions(store) == ProbeResult(())
    assert list(store.list_keys()) == []


def test_a_registry_in_s3_is_probed_by_its_first_writer_alone(seaweedfs: S3) -> None:
    """The note that it leaves names the server. A reader leaves nothing."""
    url = seaweedfs.new_prefix()
    with closing(open_store(url, {})) as store:
        assert store.get("a") is None
        assert list(store.list_keys()) == []
        version = store.create_if_absent("a", b"1")
        assert version is not None
        key, note = store.list_keys()
        assert note.startswith(NOTES)
        assert key == "a"
        found = store.get(note)
        assert found is not None
        assert found.value.decode().endswith(f" {seaweedfs.env['AWS_ENDPOINT_URL_S3']}")
    with closing(open_store(url, {})) as store:
        assert store.put("a", b"2", version) is not None
        assert list(store.list_keys()) == ["a", note]
