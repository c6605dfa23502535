"""The files of a bundle are listed and read from its archive, which may be hostile."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mopsjobs.bundles.extraction import BundleFile, list_files, read_files
from mopsjobs.bundles.packing import pack
from support.runs import tree


def archive_of(root: Path) -> bytes:
    with pack(root) as packed:
        packed.archive.seek(0)
        return packed.archive.read()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_files_are_listed_with_size_hash_mode_and_target(tmp_path: Path) -> None:
    root = tree(tmp_path / "code", {"b.py": "x = 1\n", "a/run.sh": "", "big.bin": "x" * 3_000_000})
    (root / "a" / "run.sh").chmod(0o755)
    (root / "link").symlink_to("a/run.sh")
    assert list_files(archive_of(root)) == [
        BundleFile("a/run.sh", 0, sha256(b""), is_executable=True, target=None),
        BundleFile("b.py", 6, sha256(b"x = 1\n"), is_executable=False, target=None),
        BundleFile("big.bin", 3_000_000, sha256(b"x" * 3_000_000), is_executable=False, target=None),
        BundleFile("link", 0, None, is_executable=False, target="a/run.sh"),
    ]


def test_chosen_files_are_read_if_they_are_small_enough(tmp_path: Path) -> None:
    large = dict.fromkeys(("aa", "z"), "x" * 3_000_000)  # more than a header may have
    root = tree(tmp_path / "code", {"a": "12", "b": "123", "c": "1234", "d": "1", **large})
    (root / "e").symlink_to("a")
    assert read_files(archive_of(root), {"a", "b", "c", "e", "none"}, 3) == {"a": b"12", "b": b"123"}
