"""What a store in a directory does besides the contract, which tests/contract/test_versioned_store.py holds."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mopsjobs.errors import InvalidKeyError, StoreAccessError, StoreError, StoreUnavailableError
from mopsjobs.store.directory import DirectoryVersionedStore
from support.cli import NOBODY


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


def _as_another_user(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    os.chown(path, NOBODY, -1) if os.geteuid() == 0 else monkeypatch.setattr(os, "geteuid", lambda: NOBODY)


def _as_a_link(_: pytest.MonkeyPatch, path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("change", [_as_another_user, _as_a_link])
def test_a_file_of_another_user_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch, Path], None]
) -> None:
    """It could choose what runs. Neither is a link followed."""
    store = DirectoryVersionedStore(tmp_path)
    store.create_if_absent("a", b"1")
    change(monkeypatch, tmp_path / "fa")
    with pytest.raises(StoreAccessError, match="Not allowed to use the directory"):
        store.get("a")


@pytest.mark.parametrize("times", [1, 2])
def test_a_file_that_another_machine_replaces_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Once: NFS then looks the name up anew."""
    store = DirectoryVersionedStore(tmp_path)
    store.create_if_absent("a", b"1")
    stale, fstat = [True] * times, os.fstat

    def fail_at_first(file: int) -> os.stat_result:
        if stale and stale.pop():
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return fstat(file)

    monkeypatch.setattr(os, "fstat", fail_at_first)
    if times == 1:
        found = store.get("a")
        assert found is not None
        assert found.value == b"1"
    else:
        with pytest.raises(StoreUnavailableError):
            store.get("a")
