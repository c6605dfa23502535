"""What bundles and events need of a store, over each backend."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mopsjobs.bundles.bundle import extract_bundle, store_bundle
from mopsjobs.bundles.packing import pack
from support.doubles import FaultyStore

if TYPE_CHECKING:
    from pathlib import Path

    from mopsjobs.store.base import VersionedStore


def test_a_bundle_is_stored_once(store: VersionedStore, tmp_path: Path) -> None:
    root = tmp_path / "tree"
    (root / "b").mkdir(parents=True)
    (root / "a.py").write_text("x")
    (root / "b" / "c").write_text("y")
    line = FaultyStore(store)
    with pack(root) as packed, pack(root) as again:
        assert store_bundle(line, packed) is True
        assert store_bundle(line, again) is False
    assert list(store.list_keys()) == [f"bundles/sha256/{packed.digest[7:]}"]
    assert line.calls["create_if_absent"] == 1, "the second time it is not sent at all"
    code = extract_bundle(store, packed.digest, tmp_path / "code")
    assert (code / "b" / "c").read_text() == "y"
