"""Deliver what a process left on a disk because it did not reach the registry.

It lies in a store there: the outbox of a machine or of a shard (SQLite), or the drop of a shard (files). A model can
write there too. So a relay carries only keys of forms that name it, of its own job (registry/keys.py). Values are
written by `create_if_absent`: a delivery may stop anywhere, run at any time, and run twice. Small outputs go into packs
of the shard, by which it is the same: see studies/pack_log.py.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence

from mopsjobs.errors import VALUE_ERRORS, InvalidKeyError, StoreError, StoreUnavailableError
from mopsjobs.registry.keys import BUNDLE, MACHINE, OUTPUT, may_carry
from mopsjobs.store.base import VersionedStore
from mopsjobs.store.bulk import TransactionalStore, create_all_if_absent, delete_all
from mopsjobs.studies.outputs import results_prefix
from mopsjobs.studies.pack_log import PackLog
from mopsjobs.studies.packs import MIN_OUTPUTS, names_first, split_outputs

BATCH_BYTES = 2**20
"""Values that an embedded registry takes in one transaction: each waits for the disk."""

OnRefused = Callable[[str, StoreError], object]
"""Called with key and reason for each value that can never be stored."""


def deliver(  # noqa: PLR0913 - all but five by name
    source: VersionedStore,
    store: VersionedStore,
    job_id: str,
    on_refused: OnRefused,
    is_over: Callable[[], bool] = lambda: False,
    *,
    relay: str = MACHINE,
    skips: Callable[[str], bool] = lambda _key: False,
    stays: Callable[[str], bool] = lambda _key: False,
    key_of: Callable[[str], str] = str,
    on_foreign: Callable[[str], None] | None = None,
    log: PackLog | None = None,
    below: str = "",
    is_known_absent: bool = False,
    may_stay: bool = False,
) -> bool:
    """Move values into a store, in the order of their keys: a bundle goes before its manifest.

    Args:
        source: where the values wait.
        store: where they belong. A value that it has already stays.
        job_id: the job of the values.
        on_refused: see `OnRefused`. Such a value is removed as if it was delivered.
        is_over: called before each value; returns True to leave the rest.
        relay: `keys.MACHINE`, or `keys.SHARD` for what a shard left.
        skips: whether a key is neither delivered nor removed.
        stays: whether a key is not removed when it is delivered.
        key_of: the key under which a value is delivered.
        on_foreign: called with each key that the relay may not carry: its value is not read, and stays. None: it is
            refused, as a value that can never be stored.
        log: takes small outputs; None: they stay values of their own.
        below: the beginning of the keys that are moved.
        is_known_absent: whether no pack has the outputs that go into packs. Else a listing tells.
        may_stay: whether delivered values may stay in a source that cannot remove them, on a full disk.

    Returns:
        True if each value was delivered, refused or skipped.

    Raises:
        StoreUnavailableError: if the store does not answer. What was moved before stays moved.
        StoreError: if the store refuses every value.
    """
    limit = BATCH_BYTES if isinstance(store, TransactionalStore) else 0
    batch: list[tuple[str, bytes]] = []
    size = 0

    def remove(keys: Iterable[str]) -> None:
        with contextlib.suppress(*([StoreUnavailableError] if may_stay else [])):
            delete_all(source, [key for key in keys if not stays(key)])

    def write() -> None:
        _create(store, [(key_of(key), value) for key, value in batch], on_refused)
        remove(key for key, _ in batch)
        batch.clear()

    def refuse(key: str) -> None:
        on_refused(key, InvalidKeyError(f"it is not of job {job_id}."))
        source.delete(key)

    packer = None if log is None else _Packer(log, store, job_id, remove, on_refused, is_known_absent=is_known_absent)
    for entry in source.scan(below):
        if is_over():
            return False
        key, value = entry.key, entry.value
        if skips(key):
            continue
        if not may_carry(relay, key, job_id):
            (on_foreign or refuse)(key)
            continue
        try:
            found = source.get(key) if value is None else None
        except VALUE_ERRORS as error:
            on_refused(key, error)
            continue
        value = value if found is None else found.value
        if value is None:
            continue
        if (bundle := BUNDLE.parse(key)) is not None and hashlib.sha256(value).hexdigest() != bundle["bundle"]:
            refuse(key)
            continue
        if packer is not None and OUTPUT.parse(key) is not None:
            packer.add(key, value)
            continue
        batch.append((key, value))
        size += len(value)
        if size >= limit:
            write()
            size = 0
    write()
    if packer is not None:
        packer.finish()
    return True


class _Packer:
    """Gathers outputs, which come in the order of their keys, into packs. Those of a task stay together."""

    def __init__(
        self,
        log: PackLog,
        store: VersionedStore,
        job_id: str,
        remove: Callable[[Iterable[str]], object],
        on_refused: OnRefused,
        *,
        is_known_absent: bool,
    ) -> None:
        self._log, self._store, self._remove, self._on_refused = log, store, remove, on_refused
        self._stored = None if is_known_absent else _Listed(store.list_keys(results_prefix(job_id)))
        self._prefix = results_prefix(job_id)
        self._task: list[tuple[str, bytes]] = []
        self._pack: list[tuple[str, bytes]] = []
        self._size = 0
        self._has_packed = False
        self._known: list[str] = []
        """Keys that the store has already."""

    def add(self, key: str, value: bytes) -> None:
        """Take an output. It is removed at the source when its pack is in the store, or if the store has it already."""
        if self._stored is not None and self._stored.has(key):
            self._known.append(key)
            return
        if self._task and self._task[0][0].rpartition("/")[0] != key.rpartition("/")[0]:
            self._end_task()
        self._task.append((key, value))

    def _end_task(self) -> None:
        plain, packed = split_outputs(self._task, self._log.limit, self._log.max_rows)
        self._write_alone(plain)
        size = sum(len(value) for _, value in packed)
        if self._size + size > self._log.limit or len(self._pack) + len(packed) > self._log.max_rows:
            self._write()
        self._pack += packed
        self._size += size
        self._task = []

    def finish(self) -> None:
        """Write the last pack, or what is too little for one."""
        self._end_task()
        if self._has_packed or len(self._pack) >= MIN_OUTPUTS:
            self._write()
        else:
            self._write_alone(names_first(self._pack))
        self._remove(self._known)

    def _write_alone(self, outputs: Sequence[tuple[str, bytes]]) -> None:
        _create(self._store, outputs, self._on_refused)
        self._remove([key for key, _ in outputs])

    def _write(self) -> None:
        """Write a pack, without what another runner has stored as objects by now: readers would see another value."""
        self._has_packed = True
        listed = self._log.store.unpacked.scan(self._prefix, lambda: False, self._pack[0][0][:-1]) if self._pack else ()
        objects = _Listed(entry.key for entry in listed)
        try:
            self._log.add([output for output in self._pack if not objects.has(output[0])])
        except VALUE_ERRORS:  # a store with another limit
            _create(self._store, self._pack, self._on_refused)
        self._remove([key for key, _ in self._pack])
        self._pack, self._size = [], 0


class _Listed:
    """The keys of a listing, asked for in ascending order. Nothing is requested before the first question."""

    def __init__(self, keys: Iterator[str]) -> None:
        self._keys = keys
        self._next: str | None = ""

    def has(self, key: str) -> bool:
        """Return whether the store has a key."""
        while self._next is not None and self._next < key:
            self._next = next(self._keys, None)
        return self._next == key


def _create(store: VersionedStore, batch: Sequence[tuple[str, bytes]], on_refused: OnRefused) -> None:
    """Create the keys of a batch that do not exist. If the store refuses one, the others are created all the same."""
    try:
        create_all_if_absent(store, batch)
    except VALUE_ERRORS:
        for key, value in batch:
            try:
                store.create_if_absent(key, value)
            except VALUE_ERRORS as error:
                on_refused(key, error)
