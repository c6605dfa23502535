"""The contract of `VersionedStore` (mopsjobs/store/base.py), sentence by sentence, in its order, for every backend."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mopsjobs.errors import InvalidKeyError, StoreError, ValueTooLargeError
from mopsjobs.store import cas, condition_probe, open_store
from mopsjobs.store.azure.store import AzureVersionedStore
from mopsjobs.store.base import VersionedStore, VersionToken, check_key
from mopsjobs.store.bulk import TransactionalStore, create_all_if_absent
from mopsjobs.store.condition_probe import NOTES, ProbeResult, probe_conditions
from mopsjobs.store.directory import DirectoryVersionedStore
from mopsjobs.store.dynamodb.store import MAX_ITEM_BYTES, DynamoDBVersionedStore
from mopsjobs.store.s3.store import LENGTH, S3VersionedStore
from mopsjobs.store.sqlite import store as sqlite
from support.existing import existing
from support.runs import PATIENCE, at_once
from support.servers import PATIENT, S3

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.servers import Backend


BAD_KEYS = [
    "", "/a", "a/", "a//b", ".", "..", "a/./b", "a/../b", "a\\b",
    "a\nb", "a\x00b", "a\u200bb", "\ud800", "k" * 901, "é" * 451,
]  # fmt: skip
ODD_KEYS = [
    "a b",
    "é/ü",
    "日本/語",
    "😀",
    "50%41",
    "what?x=1",
    "a#b",
    "1+1",
    "~&=;:@,$!*'()",
    "k" * 900,
    "é" * 450,
    "...",
    "a.b/.c",
]

INCREMENT = """
import sys
from mopsjobs.store import cas, open_store
store = open_store(sys.argv[1], {})
for _ in range(int(sys.argv[2])):
    cas.update(store, "counter", lambda value: b"%d" % (int(value) + 1), attempts=1000)
store.close()
"""

FORKED = """
import os, sys, threading
from mopsjobs.store import open_store
store = open_store(sys.argv[1], {})
assert store.create_if_absent("before", b"")
has_read = threading.Event()
thread = threading.Thread(target=lambda: (store.get("before"), has_read.set(), threading.Event().wait()), daemon=True)
thread.start()
has_read.wait()
child = os.fork()
name = "parent" if child else "child"
for number in range(30):
    key, value = f"{name}/{number}", b"%d of the %s" % (number, name.encode())
    version = store.create_if_absent(key, value)
    assert version and store.get(key) == (value, version), (name, number, store.get(key), version)
store.close()
if child:
    assert os.waitpid(child, 0)[1] == 0
"""

FORKED_EMBEDDED = """
import os, sys
from mopsjobs.errors import StoreError
from mopsjobs.store import open_store
url = sys.argv[1]
store, other = open_store(url, {}), open_store(url + ".other", {})
store.create_if_absent("parent", b"")
os.symlink(store.path, store.path + ".link")
def in_a_child():
    child = os.fork()
    if child == 0:
        assert other.create_if_absent(str(os.getpid()), b"")
        for one in (store, open_store(url, {}), open_store(url + ".link", {})):
            try:
                print(one.create_if_absent("child", b""), flush=True)
            except StoreError as error:
                print("refused:", error, flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
in_a_child()
store.close()
store = open_store(url, {})
in_a_child()
"""


def created(store: VersionedStore, number: int) -> bytes:
    """Return a value to create: the same again and again. In S3 it would then have the version that it had."""
    return b"same %d" % number if isinstance(store, S3VersionedStore) else b"same"


def version_of(store: VersionedStore, key: str) -> VersionToken:
    return existing(store.get(key)).version


# --- keys -----------------------------------------------------------------------------------------------------------


def test_a_key_outside_the_contract_is_refused_by_every_method(store: VersionedStore) -> None:
    """A key outside the contract raises InvalidKeyError before anything is sent."""
    attempts: dict[str, Callable[[str], object]] = {
        "get": store.get,
        "put": lambda key: store.put(key, b"", VersionToken("1")),
        "create_if_absent": lambda key: store.create_if_absent(key, b""),
        "delete": store.delete,
    }
    assert [
        (name, key) for key in BAD_KEYS for name, attempt in attempts.items() if not _is_refused(attempt, key)
    ] == []


def _is_refused(attempt: Callable[[str], object], key: str) -> bool:
    try:
        attempt(key)
    except InvalidKeyError:
        return True
    return False


@given(st.text(max_size=20))
def test_a_key_is_refused_exactly_if_the_contract_says_so(key: str) -> None:
    """1 to 900 bytes, printable, no backslash, no empty, `.` or `..` segment: a leading slash makes an empty one.

    Azure takes a backslash for a slash: two keys would be one blob.
    """
    allowed = key.isprintable() and not {"", ".", ".."}.intersection(key.split("/")) and "\\" not in key
    try:
        assert check_key(key) == key
        assert allowed
    except InvalidKeyError:
        assert not allowed


def test_every_allowed_character_survives(backend: Backend, store: VersionedStore) -> None:
    """An allowed key comes back from every method as it went in, and is not another key.

    SeaweedFS refuses more than 255 bytes between two slashes.
    """
    for key in ODD_KEYS:
        if backend.name == "s3-seaweedfs" and len(key) > 255:
            with pytest.raises(InvalidKeyError, match="takes shorter ones"):
                store.create_if_absent(key, b"value")
            continue
        version = store.create_if_absent(key, b"value")
        assert version is not None, key
        assert store.get(key) == (b"value", version)
        assert list(store.list_keys()) == [key]
        assert [(entry.key, entry.version) for entry in store.scan(key)] == [(key, version)]
        assert store.delete(key)


# --- a store that does not exist yet ------------------------------------------------------------------------------


def test_a_missing_store_holds_no_keys_and_no_read_creates_it(backend: Backend) -> None:
    """A container or file that does not exist yet holds no keys; a read never creates it."""
    store = backend.open()
    assert store.get("a") is None
    assert list(store.list_keys()) == []
    assert list(store.scan()) == []
    assert not store.delete("a")
    assert backend.name == "memory" or not backend.exists()


def test_the_first_write_creates_the_store(backend: Backend) -> None:
    store = backend.open()
    assert store.create_if_absent("a", b"1")
    assert backend.exists()
    assert backend.open().get("a") == (b"1", version_of(store, "a"))


def test_put_into_a_missing_store_finds_the_key_gone(store: VersionedStore) -> None:
    assert store.put("a", b"1", VersionToken("0x1")) is None
    assert store.get("a") is None


# --- get ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value", [b"", b"\x00\xff\r\n", b"{}", os.urandom(2**20)], ids=["empty", "raw", "json", "1 MiB"]
)
def test_get_gives_the_bytes_that_were_written(store: VersionedStore, value: bytes) -> None:
    """Values are bytes, of any content and length, as far as the backend takes them."""
    if isinstance(store, DynamoDBVersionedStore) and len(value) > MAX_ITEM_BYTES:
        with pytest.raises(ValueTooLargeError):
            store.create_if_absent("a", value)
        return
    version = store.create_if_absent("a", value)
    assert store.get("a") == (value, version)


def test_get_gives_none_for_a_missing_key(store: VersionedStore) -> None:
    store.create_if_absent("a/b", b"")
    assert store.get("a") is None
    assert store.get("a/b/c") is None


# --- put ------------------------------------------------------------------------------------------------------------


def test_put_replaces_the_value_of_the_current_version(store: VersionedStore) -> None:
    second = store.put("a", b"2", existing(store.create_if_absent("a", b"1")))
    assert second is not None
    assert store.get("a") == (b"2", second)


def test_put_gives_a_new_version_even_for_equal_bytes(store: VersionedStore) -> None:
    """It differs from every earlier one."""
    version = store.create_if_absent("a", b"same")
    seen = {version}
    for _ in range(5):
        assert version is not None
        version = store.put("a", b"same", version)
        seen.add(version)
    assert None not in seen
    assert len(seen) == 6


def test_put_of_a_stale_version_changes_nothing(store: VersionedStore) -> None:
    stale = existing(store.create_if_absent("a", b"1"))
    current = store.put("a", b"2", stale)
    assert store.put("a", b"3", stale) is None
    assert store.get("a") == (b"2", current)


def test_put_of_a_version_that_never_was_changes_nothing(store: VersionedStore) -> None:
    """No token but the current one lets a write through: not even those that mean something to HTTP."""
    version = store.create_if_absent("a", b"1")
    for value in ("", "*", '"', "nonsense", "0", "é", "a\r\nb: c"):
        assert store.put("a", b"2", VersionToken(value)) is None, value
    assert store.get("a") == (b"1", version)


def test_put_of_a_key_that_is_gone_changes_nothing(store: VersionedStore) -> None:
    version = existing(store.create_if_absent("a", b"1"))
    store.delete("a")
    assert store.put("a", b"2", version) is None
    assert store.get("a") is None


def test_the_version_of_another_key_is_stale(store: VersionedStore) -> None:
    store.create_if_absent("a", created(store, 1))
    assert store.put("a", b"2", existing(store.create_if_absent("b", created(store, 2)))) is None


# --- create_if_absent -----------------------------------------------------------------------------------------------


def test_create_of_an_existing_key_changes_nothing(store: VersionedStore) -> None:
    version = existing(store.create_if_absent("a", b"1"))
    assert store.create_if_absent("a", b"2") is None
    assert store.get("a") == (b"1", version)


def test_a_key_that_is_created_again_never_gets_an_old_version_back(store: VersionedStore) -> None:
    versions = set()
    for number in range(5):
        version = existing(store.create_if_absent("a", created(store, number)))
        versions.add(version)
        assert store.delete("a")
    last = store.create_if_absent("a", created(store, 5))
    assert last not in versions
    assert len(versions) == 5
    assert all(store.put("a", b"", stale) is None for stale in versions)


def test_creating_many_keys_leaves_those_that_exist(store: VersionedStore) -> None:
    """Each of the others has a version of its own, as if it had been created alone."""
    version = store.create_if_absent("b", b"first")
    create_all_if_absent(store, [(key, key.encode()) for key in "abcd"])
    create_all_if_absent(store, [("d", b"late"), ("e", b"e"), ("e", b"twice")])
    entries = [store.get(key) for key in "abcde"]
    assert [entry and entry.value for entry in entries] == [b"a", b"first", b"c", b"d", b"e"]
    assert entries[1] is not None
    assert entries[1].version == version
    later = store.create_if_absent("f", b"f")
    assert len({later, *(entry.version for entry in entries if entry)}) == 6


def test_creating_many_keys_refuses_a_bad_one_and_keeps_their_order(store: VersionedStore) -> None:
    with pytest.raises(InvalidKeyError):
        create_all_if_absent(store, [("a", b"1"), ("/b", b"2"), ("c", b"3")])
    assert list(store.list_keys()) == ([] if isinstance(store, TransactionalStore) else ["a"])


# --- delete ---------------------------------------------------------------------------------------------------------


def test_a_part_of_a_value_is_what_the_whole_has_there(store: VersionedStore) -> None:
    """A store that sends parts sends fewer bytes at the end of a value, none behind it, and None for a missing key."""
    get_range = getattr(store, "get_range", None)
    if get_range is None:
        pytest.skip("this store sends whole values only")
    value = bytes(range(256)) * 1000
    store.create_if_absent("results/a", value)
    for start, length in ((0, 10), (70_000, 100_000), (255_000, 5_000), (255_999, 1)):
        assert get_range("results/a", start, length) == value[start : start + length]
    assert get_range("results/a", 256_000, 10) == b""
    assert get_range("results/none", 0, 10) is None


def test_delete_removes_the_key_whatever_its_version(store: VersionedStore) -> None:
    version = existing(store.create_if_absent("a", b"1"))
    store.put("a", b"2", version)
    assert store.delete("a") is True
    assert store.get("a") is None
    assert list(store.list_keys()) == []


def test_delete_is_false_when_there_was_none(store: VersionedStore) -> None:
    store.create_if_absent("ab", b"1")
    assert store.delete("a") is False
    assert list(store.list_keys()) == ["ab"]


# --- list_keys ------------------------------------------------------------------------------------------------------


def test_list_keys_gives_the_keys_that_start_with_the_prefix(store: VersionedStore) -> None:
    """A prefix is the beginning of a text, not a folder, and none of its characters means anything."""
    for key in ("jobs/a", "jobs/ab", "jobs/a/x", "jobs/b", "job", "other", "jobs/%", "jobs/_", "jobs/*"):
        store.create_if_absent(key, b"1")
    assert list(store.list_keys("jobs/a")) == ["jobs/a", "jobs/a/x", "jobs/ab"]
    assert list(store.list_keys("jobs/%")) == ["jobs/%"]
    assert list(store.list_keys("jobs/_")) == ["jobs/_"]
    assert list(store.list_keys("jobs/*")) == ["jobs/*"]
    assert list(store.list_keys("Jobs")) == []
    assert len(list(store.list_keys("job"))) == 8
    assert len(list(store.list_keys())) == 9


def small_pages(store: VersionedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a page of a listing three keys long, in the backends that have pages."""
    monkeypatch.setattr(sqlite, "PAGE_ROWS", 3)
    if isinstance(store, AzureVersionedStore | DynamoDBVersionedStore | S3VersionedStore):
        monkeypatch.setattr(store, "_page_size", 3)


def test_listings_are_in_ascending_order_of_code_points_over_all_pages(
    store: VersionedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where UTF-16, which Azure compares by, has another order: an emoji comes after a full-width letter."""
    small_pages(store, monkeypatch)
    keys = [
        "k/a",
        "k/B",
        "k/a/b",
        "k/a-b",
        "k/a b",
        "k/é",
        "k/\uff21",
        "k/\U0001f600",
        "k/\U0001f600/\uff21",
        "k/_",
        "k/z",
    ]
    for key in keys:
        store.create_if_absent(key, b"1")
    assert list(store.list_keys("k/")) == sorted(keys)
    assert [entry.key for entry in store.scan("k/")] == sorted(keys)


@pytest.mark.parametrize("listing", ["list_keys", "scan"])
def test_a_listing_streams(store: VersionedStore, monkeypatch: pytest.MonkeyPatch, listing: str) -> None:
    """What is gone before the listing comes to it is not listed; what stays is listed once."""
    small_pages(store, monkeypatch)
    for number in range(10):
        store.create_if_absent(f"k/{number}", b"1")
    found = iter(getattr(store, listing)("k/"))
    first = next(found)
    for number in (0, 9):
        store.delete(f"k/{number}")
    rest = [entry if listing == "list_keys" else entry.key for entry in found]
    assert (first if listing == "list_keys" else first.key) == "k/0"
    assert rest == [f"k/{number}" for number in range(1, 9)]


# --- scan -----------------------------------------------------------------------------------------------------------


def test_scan_gives_the_version_and_the_value_that_get_gives(store: VersionedStore) -> None:
    """Tokens are equal, wherever they come from. The value belongs to the version; the size is the value's.

    In S3 it is that of what is stored.
    """
    values = {"empty": b"", "json": b'{"status": "running"}', "raw": bytes(range(256)), "long": os.urandom(20_000)}
    written = {key: store.create_if_absent(key, value) for key, value in values.items()}
    for entry in store.scan():
        assert entry.version == written[entry.key]
        assert store.get(entry.key) == (values[entry.key], entry.version)
        assert entry.value in (values[entry.key], None)
        extra = LENGTH if isinstance(store, S3VersionedStore) else 0
        assert entry.size is None or 0 <= entry.size - len(values[entry.key]) <= extra


def test_scan_carries_the_value_of_a_small_record(store: VersionedStore) -> None:
    """Except in S3, whose listings carry names and ETags alone, and in a directory, where each is a file."""
    is_carried = not isinstance(store, S3VersionedStore | DirectoryVersionedStore)
    version = existing(store.create_if_absent("a", b"1" * 500))
    assert [entry.value for entry in store.scan()] == [b"1" * 500 if is_carried else None]
    store.put("a", b"2" * 500, version)
    assert [entry.value for entry in store.scan()] == [b"2" * 500 if is_carried else None]


def test_a_scan_without_values_has_the_same_keys_and_versions(store: VersionedStore) -> None:
    """A value that comes nevertheless is the right one."""
    for key in ("a", "b/c", "d"):
        store.create_if_absent(key, key.encode())
    asked: list[bool] = []
    entries = list(store.scan("", lambda: bool(asked.append(True))))
    assert [entry._replace(value=None) for entry in entries] == [one._replace(value=None) for one in store.scan("")]
    assert all(entry.value in (None, entry.key.encode()) for entry in entries)
    assert bool(asked) == isinstance(store, AzureVersionedStore)


def test_a_scan_begins_after_a_key(backend: Backend, store: VersionedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """After any key, one that exists or not, a long one, or one with characters that servers order otherwise."""
    small_pages(store, monkeypatch)
    room = 120 if backend.name == "s3-seaweedfs" else 400
    keys = ["a/z", "k/", "k/0", "k/5", "k/5/x", "k/é", "k/\uffee", "k/\U0001f600", "k/~", "k0", f"k/7{'é' * room}"]
    keys = sorted(key for key in keys if not key.endswith("/"))
    for key in keys:
        store.create_if_absent(key, b"1")
    for prefix in ("k/", "k", ""):
        for after in (*keys, "", "k/", "k/4", "k/5/", "k/\ufffd", f"k/7{'é' * 700}", "z"):
            expected = [key for key in keys if key.startswith(prefix) and key > after]
            assert [entry.key for entry in store.scan(prefix, after=after)] == expected, (prefix, after)


@given(operations=st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["create", "put", "stale", "delete"]))))
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_a_store_behaves_as_a_dict_with_versions(backend: Backend, operations: list[tuple[str, str]]) -> None:
    """Any sequence of writes leaves what the same sequence leaves in a dict."""
    store = backend.open()
    for key in ("a", "b"):
        store.delete(key)
    model: dict[str, tuple[bytes, VersionToken]] = {}
    old = VersionToken("0x1")
    for number, (key, operation) in enumerate(operations):
        value = b"%d" % number
        if operation == "delete":
            assert store.delete(key) == (model.pop(key, None) is not None)
            continue
        if operation == "create":
            version = store.create_if_absent(key, value)
            assert (version is None) == (key in model)
        else:
            version = store.put(key, value, model[key][1] if operation == "put" and key in model else old)
            assert (version is None) == (operation == "stale" or key not in model)
        if version is not None:
            old = model[key][1] if key in model else old
            model[key] = (value, version)
    assert {key: store.get(key) for key in model} == model
    assert list(store.list_keys()) == sorted(model)


# --- close ----------------------------------------------------------------------------------------------------------


def test_closing_twice_is_harmless_and_any_use_after_it_is_an_error(backend: Backend) -> None:
    store = backend.open()
    version = existing(store.create_if_absent("a", b"1"))
    store.close()
    store.close()
    for attempt in (
        lambda: store.get("a"),
        lambda: store.put("a", b"2", version),
        lambda: store.create_if_absent("b", b""),
        lambda: store.delete("a"),
        lambda: list(store.list_keys()),
        lambda: list(store.scan()),
    ):
        with pytest.raises(StoreError, match="closed"):
            attempt()


# --- several at once ------------------------------------------------------------------------------------------------


def test_every_method_may_be_called_from_several_threads_at_once(store: VersionedStore) -> None:
    """Sixteen threads, each with keys of its own, do not get in each other's way."""

    def work(thread: int) -> bool:
        key = f"t{thread}"
        version = store.create_if_absent(key, b"0")
        for number in range(1, 4):
            assert version is not None
            version = store.put(key, b"%d" % number, version)
        assert store.get(key) == (b"3", version)
        assert [entry.key for entry in store.scan(key + "/")] == []
        assert key in list(store.list_keys("t"))
        return store.delete(key) if thread % 2 else True

    assert all(at_once(work, range(16)))
    assert len(list(store.list_keys())) == 8


def test_of_concurrent_creates_exactly_one_wins(backend: Backend) -> None:
    """Also when the store itself does not exist yet, and each thread has a client of its own."""
    stores = [backend.open() for _ in range(8)]
    versions = at_once(lambda number: stores[number].create_if_absent("a", b"%d" % number), range(8))
    (winner,) = [number for number, version in enumerate(versions) if version is not None]
    assert stores[0].get("a") == (b"%d" % winner, versions[winner])


def test_concurrent_increments_by_threads_lose_nothing(store: VersionedStore) -> None:
    store.create_if_absent("counter", b"0")

    def count(_: int) -> None:
        for _step in range(10):
            cas.update(store, "counter", lambda value: b"%d" % (int(value) + 1), attempts=1000, sleep=lambda _: None)

    at_once(count, range(4))
    assert existing(store.get("counter")).value == b"40"


FAR = [
    pytest.param("azure", marks=pytest.mark.azurite),
    pytest.param("dynamodb", marks=pytest.mark.dynalite),
    pytest.param("s3-seaweedfs", marks=pytest.mark.s3),
]

BY_PROCESSES = pytest.mark.parametrize("backend", ["sqlite", *FAR], indirect=True)
"""A store that several processes can have open: one in memory is not."""


@BY_PROCESSES
def test_concurrent_increments_by_processes_lose_nothing(backend: Backend) -> None:
    store = backend.open()
    store.create_if_absent("counter", b"0")
    command = [sys.executable, "-c", PATIENT + INCREMENT, backend.url, "10"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    writers = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    errors = [writer.communicate(timeout=PATIENCE)[1] for writer in writers]
    assert [(writer.returncode, error) for writer, error in zip(writers, errors, strict=True)] == [(0, "")] * 3
    assert existing(store.get("counter")).value == b"30"


@pytest.mark.parametrize("backend", FAR, indirect=True)
def test_a_store_may_be_carried_over_a_fork(backend: Backend) -> None:
    """Parent and child each get the replies to their own calls, and all that either was told is written is there."""
    _run(FORKED, backend)
    keys = [f"{name}/{number}" for name in ("child", "parent") for number in range(30)]
    assert _keys_of_programs(backend) == sorted([*keys, "before"])


def _keys_of_programs(backend: Backend) -> list[str]:
    """Return the keys that programs wrote, without the note of the probe before their first write."""
    return [key for key in backend.open().list_keys() if not key.startswith(condition_probe.NOTES)]


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_a_forked_child_is_refused_what_its_parent_has_open(backend: Backend) -> None:
    """By whatever name, and in a store of its own too, since SQLite has one table of locks; but no other file is."""
    told = _run(FORKED_EMBEDDED, backend).splitlines()
    assert len(told) == 6
    assert all("was open when this process was forked, and SQLite would lose" in line for line in told[:3])
    assert not any("refused" in line for line in told[3:]), "the parent had closed it"
    assert list(backend.open().list_keys()) == ["child", "parent"]


INTERRUPTED = """
import os, signal, sys
from mopsjobs.errors import StoreError
from mopsjobs.store import open_store
store = open_store(sys.argv[1], {})
assert store.create_if_absent("before", b"")
children = []
try:
    with store._write_transaction() as connection:
        children.append(os.fork())
        connection.execute("INSERT INTO objects SELECT 'amid', x'', writes + 1 FROM store")
        token = store._new_version(connection)
    print("told", token.value, flush=True)
except StoreError as error:
    assert "was open when this process was forked" in str(error)
    os._exit(3)
assert children[0], "the child was told so too"
assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 3
"""


@pytest.mark.parametrize("backend", ["sqlite"], indirect=True)
def test_of_a_write_that_a_fork_interrupts_the_parent_alone_is_told(backend: Backend) -> None:
    """As when a signal comes in the middle of it: one of the two must not go on."""
    assert _run(INTERRUPTED, backend).count("told") == 1
    assert list(backend.open().list_keys()) == ["amid", "before"]


def test_a_write_within_a_write_is_refused_at_once(tmp_path: Path) -> None:
    """As by the handler of a signal: it would wait for its own thread, and take that for another one."""
    with contextlib.closing(sqlite.SQLiteVersionedStore(tmp_path / "registry.db")) as store:
        with store._write_transaction(), pytest.raises(StoreError, match="This thread is in the middle of a write"):
            store.create_if_absent("b", b"")
        assert store.create_if_absent("a", b"")


class _Interrupted:
    """A connection with which Ctrl-C comes when the first transaction has just begun."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._is_to_come = True

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)

    def execute(self, statement: str, *arguments: object) -> sqlite3.Cursor:
        done = self._connection.execute(statement, *arguments)
        if statement.startswith("BEGIN") and self._is_to_come:
            self._is_to_come = False
            raise KeyboardInterrupt
        return done


def test_an_interrupt_at_the_beginning_of_a_write_leaves_nothing_held(tmp_path: Path) -> None:
    """In a program that goes on, such as a notebook: else each other writer would wait for it."""
    path = tmp_path / "registry.db"
    with contextlib.closing(sqlite.SQLiteVersionedStore(path)) as store:
        store.create_if_absent("a", b"")
        mine = store._threads.connection
        mine.connection = _Interrupted(mine.connection)
        with pytest.raises(KeyboardInterrupt):
            store.create_if_absent("b", b"")
        assert not mine.connection.in_transaction
        assert store.create_if_absent("c", b"")
        assert list(sqlite.SQLiteVersionedStore(path).list_keys()) == ["a", "c"]


def test_a_store_closed_during_a_call_is_closed_when_that_ends(tmp_path: Path) -> None:
    """By another thread: the call goes on, and nothing stays open that a forked child would be refused for."""
    store = sqlite.SQLiteVersionedStore(tmp_path / "registry.db")
    with store._write_transaction() as connection:
        thread = threading.Thread(target=store.close)
        thread.start()
        thread.join()
        connection.execute("INSERT INTO objects SELECT 'a', x'', writes + 1 FROM store")
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")
    with pytest.raises(StoreError, match="is closed"):
        store.get("a")
    assert str(tmp_path / "registry.db") not in [one.path for one in sqlite._files.opened.values()]


def _run(source: str, backend: Backend) -> str:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # Python warns of every fork of a process that has threads.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PATIENT + source, backend.url]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def test_a_reader_never_sees_a_value_with_the_version_of_another(store: VersionedStore) -> None:
    """`get` and `scan` during writes: each version always comes with the one value that was written under it."""
    version = existing(store.create_if_absent("a", b"0"))
    written = {version: b"0"}
    seen: list[tuple[VersionToken, bytes]] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            found = existing(store.get("a"))
            seen.append((found.version, found.value))
            seen.extend((entry.version, entry.value) for entry in store.scan() if entry.value is not None)

    end = time.monotonic() + PATIENCE
    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        try:
            for number in itertools.count(1):
                if number > 30 and len(seen) > 30:
                    break
                version = existing(store.put("a", b"%d" % number, version))
                written[version] = b"%d" % number
                assert time.monotonic() < end
        finally:
            done.set()
        for reader in readers:
            reader.result(timeout=PATIENCE)
    assert all(written[version] == value for version, value in seen)


def test_a_value_that_sqlite_does_not_take_is_refused_as_too_large(tmp_path: Path) -> None:
    """Not as a broken store: the writer can go on with other values."""
    with contextlib.closing(sqlite.SQLiteVersionedStore(tmp_path / "registry.db")) as store:
        with store._write_transaction() as connection:
            connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 1000)
        with pytest.raises(ValueTooLargeError, match="too large"):
            store.create_if_absent("a", bytes(2000))
        with pytest.raises(ValueTooLargeError, match="too large"):
            store.create_all_if_absent([("b", b"small"), ("c", bytes(2000))])
        assert store.create_if_absent("a", b"small")
        assert list(store.list_keys()) == ["a"]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="This system does not list open files as Linux does.")
def test_threads_that_have_ended_leave_no_file_open(store: VersionedStore) -> None:
    """A server has had thousands of threads by the end of the day, each of which has read or written."""
    store.create_if_absent("key", b"value")

    def open_files() -> int:
        for number in range(12):
            use = (lambda: store.get("key")) if number % 2 else (lambda: store.create_if_absent("key", b"other"))
            thread = threading.Thread(target=use)
            thread.start()
            thread.join()
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    first = open_files()
    # A client of a network may open a connection more, or close one; what each thread leaves would be 36 by now.
    assert max(open_files() for _ in range(3)) <= first + 10


# --- The probe of conditional writes over each backend, and the first writes to a registry in S3 ---------------------


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
        version = existing(store.create_if_absent("a", b"1"))
        key, note = store.list_keys()
        assert note.startswith(NOTES)
        assert key == "a"
        assert existing(store.get(note)).value.decode().endswith(f" {seaweedfs.env['AWS_ENDPOINT_URL_S3']}")
    with closing(open_store(url, {})) as store:
        assert store.put("a", b"2", version) is not None
        assert list(store.list_keys()) == ["a", note]
