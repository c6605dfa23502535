"""What a store in a directory does besides the contract, which tests/contract/test_versioned_store.py holds."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from mopsjobs.errors import InvalidKeyError, StoreAccessError, StoreError, StoreUnavailableError
from mopsjobs.store.directory import DirectoryVersionedStore


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (errno.EACCES, StoreAccessError),
        (errno.EROFS, StoreAccessError),
        (errno.ENOSPC, StoreUnavailableError),
        (errno.EDQUOT, StoreUnavailableError),
        (errno.ESTALE, StoreUnavailableError),
        (errno.EIO, StoreUnavailableError),
        (errno.ENAMETOOLONG, InvalidKeyError),
    ],
)
def test_errors_of_the_disk_are_those_of_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, expected: type[StoreError]
) -> None:
    """None of them looks like a missing key, and what was not written leaves no part of a file."""
    store = DirectoryVersionedStore(tmp_path)
    store.create_if_absent("a", b"1")

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(expected):
        store.create_if_absent("b", b"2")
    assert os.listdir(tmp_path) == ["fa"]
    monkeypatch.setattr(os, "stat", fail)
    with pytest.raises(expected):
        list(store.scan())


def test_a_part_that_a_killed_writer_left_is_not_listed(tmp_path: Path) -> None:
    store = DirectoryVersionedStore(tmp_path)
    store.create_if_absent("a/b", b"1")
    (tmp_path / "p0123456789abcdef").write_bytes(b"ha")
    assert list(store.list_keys()) == ["a/b"]
