"""The bundle: that it is the same for the same files, stored once, and unpacked without harm."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import socket
import stat
import tarfile
import threading
from pathlib import Path

import pytest

from mopsjobs.bundles import extraction, packing
from mopsjobs.bundles.bundle import BundleError, bundle_key, extract_bundle, store_bundle
from mopsjobs.bundles.extraction import BundleFile, list_files, read_files
from mopsjobs.bundles.packing import pack
from mopsjobs.errors import StoreUnavailableError, UsageError
from mopsjobs.store.azure import store as azure
from mopsjobs.store.memory import InMemoryVersionedStore
from support.doubles import FaultyStore
from support.runs import PATIENCE, at_once, tree


def _packed(root: Path) -> tuple[str, bytes]:
    with pack(root) as packed:
        packed.archive.seek(0)
        return packed.digest, packed.archive.read()


def _names(root: Path, *leave_out: Path) -> set[str]:
    with pack(root, leave_out=[str(path) for path in leave_out]) as packed:
        return set(packed.names)


# --- the same for the same files -------------------------------------------------------------------------------------


def test_same_files_same_bytes_whatever_times_modes_umask_and_order(tmp_path: Path) -> None:
    names = ["b.py", "a.py", "a/b.py", "a-b.py", "\u00e9.py", "A.py"]
    first = tree(tmp_path / "one", {name: name for name in names})
    old = os.umask(0o077)
    try:
        second = tree(tmp_path / "elsewhere" / "two", {name: name for name in reversed(names)})
    finally:
        os.umask(old)
    for root in (first, second):
        (root / "link").symlink_to("a/b.py")
        (root / "run.sh").touch()
    (first / "run.sh").chmod(0o755)
    (second / "run.sh").chmod(0o700)
    os.utime(second / "b.py", (1, 1))
    assert _packed(first) == _packed(second)


def test_content_name_and_executable_bit_make_another_bundle(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", {"a": "x"})
    digests = [_packed(root)[0]]
    (root / "a").chmod(0o755)
    digests.append(_packed(root)[0])
    (root / "a").write_text("y")
    digests.append(_packed(root)[0])
    (root / "a").rename(root / "b")
    digests.append(_packed(root)[0])
    assert len(set(digests)) == 4


def test_the_digest_says_nothing_of_this_machine(tmp_path: Path) -> None:
    """It is the SHA-256 of the bytes."""
    root = tree(tmp_path / "tree", {"a": "x"})
    with pack(root) as packed:
        packed.archive.seek(0)
        value = packed.archive.read()
        assert packed.digest == f"sha256:{hashlib.sha256(value).hexdigest()}"
        assert (packed.files, packed.bytes) == (1, len(value))
    assert value[:10] == b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    with tarfile.open(fileobj=io.BytesIO(value)) as tar:
        (member,) = tar
        assert (member.uid, member.gid, member.uname, member.gname, member.mtime) == (0, 0, "", "", 0)
    assert str(tmp_path).encode() not in gzip.decompress(value)


def test_what_the_program_writes_itself_is_left_out_whatever_a_rule_says(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", {"a": "", ".mops-jobs.toml": "", "sub/.mops-jobs.toml": "", "jobs.db": "", "b": ""})
    (root / ".modelopsignore").write_text("!.mops-jobs.toml\n!jobs.db\n")
    (tmp_path / "link").symlink_to(root)
    assert _names(root, tmp_path / "link" / "jobs.db", root / "absent") == {"a", "b", ".modelopsignore"}
    assert _names(tmp_path / "link", root / "jobs.db") == {"a", "b", ".modelopsignore"}
    assert "jobs.db" in _names(root)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_links_that_stay_inside_are_kept_as_links(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", {"a/b.py": "x"})
    (root / "a" / "up").symlink_to("../a/b.py")
    (root / "dir").symlink_to("a")
    (root / "dangling").symlink_to("nowhere")
    store = InMemoryVersionedStore()
    with pack(root) as packed:
        store_bundle(store, packed)
    code = extract_bundle(store, packed.digest, tmp_path / "code")
    assert {path.name: os.readlink(path) for path in code.rglob("*") if path.is_symlink()} == {
        "up": "../a/b.py", "dir": "a", "dangling": "nowhere",
    }  # fmt: skip


def test_all_links_that_lead_out_are_named(tmp_path: Path) -> None:
    root = tree(tmp_path / "tree", {"a/b/c/x": "x"})
    (root / "absolute").symlink_to("/etc/passwd")
    (root / "above").symlink_to("../other")
    (root / "a" / "self").symlink_to(root)
    (root / "a" / "b" / "c" / "top").symlink_to("../../..")
    (root / "roundabout").symlink_to("a/b/c/top/../other")
    (root / "left_out").symlink_to("/")
    (root / ".modelopsignore").write_text("left_out\n")
    with pytest.raises(UsageError) as caught:
        pack(root)
    for name in ("'absolute'", "'above'", "'a/self'", "'roundabout'"):
        assert name in caught.value.message
    assert "left_out" not in caught.value.message
    assert "'a/b/c/top'" not in caught.value.message


def test_what_is_neither_file_nor_link_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(tmp_path / "tree", {"a": "x"})
    os.mkfifo(root / "pipe")
    monkeypatch.chdir(root)  # the address of a socket is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("sock")
        with pytest.raises(UsageError, match="'pipe', 'sock'"):
            pack(root)


@pytest.mark.parametrize(
    ("limit", "value"), [("MAX_PACKED_BYTES", 1000), ("MAX_UNPACKED_BYTES", 1000), ("MAX_FILES", 1)]
)
def test_too_much_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    root = tree(tmp_path / "tree", {"b": "x"})
    (root / "a").write_bytes(os.urandom(5000))
    monkeypatch.setattr(packing, limit, value)
    with pytest.raises(UsageError, match="at most") as caught:
        pack(root)
    assert caught.value.message.count(".") == 1
    assert caught.value.hint is not None
    assert ".modelopsignore" in caught.value.hint


def test_generated_files_are_packed_with_a_directory_or_alone(tmp_path: Path) -> None:
    """The archive is that of a directory which has them. A file of the same name is not replaced."""
    with (
        pack(tree(tmp_path / "whole", {"b/data": "1", "cell.py": "x = 1"})) as whole,
        pack(tree(tmp_path / "part", {"b/data": "1", ".gitignore": "*.py"}), added={"cell.py": b"x = 1"}) as part,
        pack(None, added={"cell.py": b"x = 1"}) as alone,
    ):
        assert part.blobs == {**whole.blobs, ".gitignore": part.blobs[".gitignore"]}
        assert alone.blobs == {"cell.py": whole.blobs["cell.py"]}
    with pytest.raises(UsageError, match=r"whole has a file 'cell\.py', which is generated"):
        pack(tmp_path / "whole", added={"cell.py": b"x = 2"})


# --- in the store ----------------------------------------------------------------------------------------------------


def test_what_is_packed_at_most_is_what_azure_takes() -> None:
    assert packing.MAX_PACKED_BYTES == azure.MAX_VALUE_BYTES


# --- unpacking -------------------------------------------------------------------------------------------------------


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname, member.size, member.mode = kind, link, size, 0o4777
    return member


def _stored(value: bytes) -> tuple[InMemoryVersionedStore, str]:
    store = InMemoryVersionedStore()
    ref = f"sha256:{hashlib.sha256(value).hexdigest()}"
    store.create_if_absent(bundle_key(ref), value)
    return store, ref


def _archive(*members: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(b"x" * member.size))
    return out.getvalue()


SYM, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE
HOSTILE = {
    "above": [_member("../out")],
    "absolute": [_member("/out")],
    "inner dots": [_member("a/../../out")],
    "link above": [_member("a", SYM, "../out")],
    "link absolute": [_member("a", SYM, "/out")],
    "through a link": [_member("a", SYM, "b"), _member("b/f"), _member("a/f")],
    "links that lead out together": [
        _member("a/b/c", tarfile.DIRTYPE),
        _member("a/b/c/top", SYM, "../../.."),
        _member("out", SYM, "a/b/c/top/../secret"),
    ],
    "link through a link": [_member("a", SYM, "b"), _member("b/f"), _member("a/l", SYM, "f")],
    "hard link": [_member("a"), _member("b", HARD, "a")],
    "device": [_member("a", tarfile.CHRTYPE)],
    "pipe": [_member("a", tarfile.FIFOTYPE)],
    "twice": [_member("a"), _member("a")],
    "a file as directory": [_member("a"), _member("a/b")],
    "a name too long": [_member("x" * 5000)],
}


@pytest.mark.claim("A path in a bundle stays in its directory")
@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
def test_an_archive_that_leads_out_leaves_nothing_behind(tmp_path: Path, members: list[tarfile.TarInfo]) -> None:
    store, ref = _stored(_archive(*members))
    with pytest.raises(BundleError, match="cannot be unpacked"):
        extract_bundle(store, ref, tmp_path / "in" / "code")
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["in", "in/code"]


def _pax(headers: dict[str, str], count: int) -> bytes:
    one = _member("f")
    one.pax_headers = headers
    return gzip.compress(one.tobuf(tarfile.PAX_FORMAT)[:-512] * count + _member("f").tobuf())


BOMBS = {
    "a huge file": lambda: _archive(_member("a", size=3_000_000)),
    "many files": lambda: _archive(*(_member(f"{number}") for number in range(60))),
    "many directories": lambda: _archive(_member("d/" * 60 + "f"), _member("e")),
    "a huge header": lambda: _pax({"comment": "x" * 3_000_000}, 1),
    "a thousand headers": lambda: _pax({"comment": "x"}, 1000),
    "a header that lies": lambda: gzip.compress(_member("a", size=2**60).tobuf()),
    "cut short": lambda: gzip.compress(_member("a", size=1000).tobuf() + b"x" * 600),
    "cut short in gzip": lambda: _archive(_member("a", size=100_000))[:-12],
    "no archive": lambda: b"no archive",
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("make", BOMBS.values(), ids=BOMBS)
def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make) -> None:
    monkeypatch.setattr(extraction, "MAX_UNPACKED_BYTES", 2_000_000)
    monkeypatch.setattr(extraction, "MAX_FILES", 50)
    store, ref = _stored(make())
    with pytest.raises(BundleError, match="cannot be unpacked"):
        extract_bundle(store, ref, tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.claim("A bundle has the bytes that its name is the hash of")
def test_a_bundle_that_is_missing_or_damaged_is_told_apart(tmp_path: Path) -> None:
    store, ref = _stored(b"x")
    store.delete(bundle_key(ref))
    with pytest.raises(BundleError, match="not in the store"):
        extract_bundle(store, ref, tmp_path)
    store.create_if_absent(bundle_key(ref), b"y")
    with pytest.raises(BundleError, match="damaged"):
        extract_bundle(store, ref, tmp_path)


@pytest.mark.claim("Unpacked code is private")
def test_only_its_owner_may_use_what_was_unpacked(tmp_path: Path) -> None:
    store, ref = _stored(_archive(_member("a/run"), _member("b", tarfile.DIRTYPE)))
    code = extract_bundle(store, ref, tmp_path)
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in (code, *code.rglob("*"))}
    assert set(found.values()) == {0o700}


def test_what_landed_or_is_unpacked_is_not_sent_again(tmp_path: Path) -> None:
    """A bundle whose reply was lost is stored. Code that is there is used without asking the store."""
    line = FaultyStore(InMemoryVersionedStore())
    line.lose_reply_next()
    with pack(tree(tmp_path / "tree", {"a": "x"})) as packed:
        with pytest.raises(StoreUnavailableError):
            store_bundle(line, packed)
        assert store_bundle(line, packed) is False
    line.calls.clear()
    first, second = (extract_bundle(line, packed.digest, tmp_path / "code") for _ in range(2))
    assert (first, line.calls["get"]) == (second, 1)


def test_several_at_once_do_not_harm_each_other(tmp_path: Path) -> None:
    """All of them have found nothing, fetched and begun before the first is done."""
    store, ref = _stored(_archive(*(_member(f"{number}", size=10) for number in range(50))))
    barrier = threading.Barrier(4, timeout=PATIENCE)

    class Slow:
        def get(self, key: str):
            barrier.wait()
            return store.get(key)

    codes = at_once(lambda _: extract_bundle(Slow(), ref, tmp_path), range(4))
    assert len(codes) == 4
    assert list(tmp_path.iterdir()) == [codes[0]]
    assert len(list(codes[0].iterdir())) == 50


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
