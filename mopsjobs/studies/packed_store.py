"""Show the outputs in packs as keys of their own, so that all readers of outputs read both forms.

A shard's packs are a log: numbered, each created once. If several packs have an output, the lowest number counts, then
the lowest shard. A pack counts before an object of the output's own key. So what counts follows from what is stored.
Nothing that is stored later changes it: a writer leaves out of a pack what another runner has stored as an object.

A pack never changes, so a process reads its index once: by range where the store has ranges. It reads packs whole if
those of the job are small together, or if a thread reads two outputs in a row from one pack. Else it reads an output
by range.
"""

from __future__ import annotations

import heapq
import itertools
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from mopsjobs.errors import VALUE_ERRORS, RecordError, StoreError
from mopsjobs.registry.keys import OUTPUT, PACK
from mopsjobs.store.base import Entry, ReadableStore, Versioned, VersionedStore, VersionToken, WantsValues, always
from mopsjobs.store.bulk import bulk_reads
from mopsjobs.studies.packs import HEAD, MAX_PACK_BYTES, PackIndex, Row, digest_of, index_length, parse_index

KEPT_PACKS = 64 * 2**20
"""Bytes of whole packs that a process keeps."""

KEPT_INDEXES = 64 * 2**20
"""Bytes of indexes that a process keeps, besides those of the job that it has looked at last."""

WHOLE_BYTES = KEPT_PACKS // 2
"""If the packs of a job have fewer bytes together, they are read as a whole."""

BEGINNING = 64 * 2**10
"""Bytes that are read first of a pack: most indexes are shorter, and so are the packs of trivial tasks."""

THREADS = 16
"""Indexes that are read at once."""

NEAR = 64 * 2**10
"""Bytes between two outputs that are read by one range: a request takes as long as their transfer."""

WINDOW = 100_000
"""Outputs of a download that are sorted by their packs. Each takes about half a kilobyte meanwhile."""

T = TypeVar("T")

_RESULTS = OUTPUT.prefix

_PARAM = re.compile(r"[0-9a-f]{64}/")

PACKS = ".packs/"
"""Stands between the prefix of a job's outputs and its packs. It sorts before all parameter ids."""


class _Log(NamedTuple):
    """The packs of a job, as last listed, in the order in which they count."""

    indexes: dict[str, PackIndex]
    unusable: list[Entry]
    """The entries of packs that cannot be used."""
    versions: Mapping[str, VersionToken]
    """Those of the packs. A job may be removed by hand, and its id given to another one."""

    def find(self, parts: Mapping[str, str]) -> tuple[PackIndex, Row] | None:
        """Return where an output is: in the first pack that has it."""
        for index in self.indexes.values():
            if (row := index.find(parts["param"], parts["seed"], parts["output"])) is not None:
                return index, row
        return None

    @property
    def bytes(self) -> int:
        """Count the bytes of all packs."""
        return sum(index.bytes for index in self.indexes.values())

    @property
    def memory(self) -> int:
        """Count about the bytes that the indexes take."""
        return sum(index.memory for index in self.indexes.values())


class PackedStore:
    """A store whose packed outputs are shown as keys. All else is the store's own.

    Args:
        store: where packs and other values are.
    """

    def __init__(self, store: VersionedStore) -> None:
        self.unpacked = store
        """The store as it is."""
        self.put, self.create_if_absent, self.delete = store.put, store.create_if_absent, store.delete
        self.close = store.close
        self._get_range: Callable[[str, int, int], bytes | None] | None = getattr(store, "get_range", None)
        self._lock, self._listing = threading.Lock(), threading.Lock()
        self._packs: dict[str, bytes] = {}
        """Whole packs, the last used one at the end."""
        self._logs: dict[str, _Log] = {}
        """Those of the jobs that were looked at last."""
        self._reading: dict[str, threading.Lock] = {}
        self._last = threading.local()
        """The pack from which a thread has read an output last, as `key`."""

    def __getattr__(self, name: str) -> Any:
        """Return what only some stores have, such as `pacer` and `credential_source`."""
        return getattr(self.unpacked, name)

    def get(self, key: str) -> Versioned | None:
        """Return the output of a pack, else the value of the key."""
        parts = OUTPUT.parse(key) if key.startswith(_RESULTS) else None
        if parts is None or "/" in parts["job"]:
            return self.unpacked.get(key)
        job_id = parts["job"]
        with self._listing:  # threads that ask at the same time cost one listing
            log = self._logs.get(job_id) or self.list_packs(job_id)
        if (found := log.find(parts)) is not None:
            return self._read(*found)
        if (value := self.unpacked.get(key)) is not None:
            return value
        found = self.list_packs(job_id).find(parts)  # written since the last listing
        return None if found is None else self._read(*found)

    def get_entry(self, entry: Entry) -> Versioned | None:
        """Return the value of an entry that `scan` gave: `get` without the search for its pack."""
        found = self._find_entry(entry)
        return self.get(entry.key) if found is None else self._read(*found[1:])

    def _find_entry(self, entry: Entry) -> tuple[_Log, PackIndex, Row] | None:
        parts = OUTPUT.parse(entry.key)
        log = None if parts is None else self._logs.get(parts["job"])
        index = None if log is None else log.indexes.get(entry.version.value)
        row = None if parts is None or index is None else index.find(parts["param"], parts["seed"], parts["output"])
        return None if log is None or index is None or row is None else (log, index, row)

    def read_ranges(self, entries: Iterable[Entry], call: Callable[..., Iterable[bytes | None]]) -> dict[str, bytes]:
        """Return the values of entries that lie near each other in large packs, by their keys.

        An entry that is not there has to be read alone: its pack is small, or is damaged.

        Args:
            entries: as `scan` gave them.
            call: as `map`, which may use several threads.
        """
        places: dict[str, list[tuple[int, int, Row, str]]] = {}
        for entry in entries:
            if (found := self._find_entry(entry)) is not None:
                log, index, row = found
                if log.bytes > WHOLE_BYTES and row.size and index.inline(row) is None:
                    places.setdefault(index.key, []).append((*index.span(row), row, entry.key))
        if self._get_range is None or not places:
            return {}
        ranges: list[tuple[str, int, int]] = []
        for pack, of_pack in places.items():
            of_pack.sort()
            for start, length, *_ in of_pack:
                if ranges and ranges[-1][0] == pack and start <= ranges[-1][2] + NEAR:
                    ranges[-1] = (pack, ranges[-1][1], start + length)
                else:
                    ranges.append((pack, start, start + length))
        values: dict[str, bytes] = {}
        get_range = self._get_range
        read = call(lambda one: get_range(one[0], one[1], one[2] - one[1]), ranges)
        for (pack, begin, end), part in zip(ranges, read, strict=True):
            of_range = (one for one in places[pack] if begin <= one[0] < end)
            read_parts = ((key, row, (part or b"")[start - begin :][:length]) for start, length, row, key in of_range)
            values.update((key, value) for key, row, value in read_parts if digest_of(value) == row.digest)
        return values

    def list_keys(self, prefix: str = "") -> Iterator[str]:
        """Yield the keys of `scan`."""
        if not self._shows(prefix):
            return self.unpacked.list_keys(prefix)
        return (entry.key for entry in self.scan(prefix, lambda: False))

    def scan(self, prefix: str = "", wants_values: WantsValues = always, after: str = "") -> Iterator[Entry]:
        """Yield the entries of outputs in packs and of other keys, in the order of the keys, each key once.

        A pack that cannot be used is an entry under its own key. The prefix has to have at least the whole id of a job;
        with another one, the keys are those of the store.
        """
        if not self._shows(prefix):
            return self.unpacked.scan(prefix, wants_values, after)
        return self._scan_job(prefix, wants_values, after)

    def _scan_job(self, prefix: str, wants_values: WantsValues, after: str) -> Iterator[Entry]:
        job_id, _, below = prefix[len(_RESULTS) :].partition("/")
        before: list[Entry] = []
        # Small packs come with the listing of some stores, and then their indexes need no request.
        listed = self.unpacked.scan(prefix, lambda: not (below or before) or wants_values(), after)

        def packs() -> Iterator[Entry]:
            """Yield the packs, which come first, and note the keys around them."""
            for entry in listed:
                if PACK.parse(entry.key) is not None:
                    yield entry
                    continue
                before.append(entry)
                if entry.key > prefix + PACKS and not entry.key.startswith(prefix + PACKS):
                    return

        if "/reduced-" in below:  # outputs of reductions are in no pack
            log = _Log({}, [], {})
        elif below or after:
            log = self.list_packs(job_id)
        else:
            log = self._note(job_id, packs())
            before = sorted([*log.unusable, *before], key=lambda entry: entry.key)
        others = itertools.chain(before, listed)
        if not log.indexes:
            yield from others
            return
        streams = (_entries(index, prefix, after) for index in log.indexes.values())  # the first that has a key counts
        merged = heapq.merge(*streams, others, key=lambda entry: entry.key)
        for _, of_key in itertools.groupby(merged, key=lambda entry: entry.key):
            yield next(of_key)

    def list_packs(self, job_id: str) -> _Log:
        """List the packs of a job.

        Raises:
            StoreError: if the store does not answer.
        """
        return self._note(job_id, self.unpacked.scan(f"{_RESULTS}{job_id}/{PACKS}"))

    def listed_packs(self, job_id: str) -> Collection[str]:
        """Return the keys of a job's packs as they were last listed."""
        return (self._logs.get(job_id) or self.list_packs(job_id)).versions

    def read_index(self, key: str, size: int | None = None) -> PackIndex:
        """Return the index of a pack.

        Raises:
            RecordError: if it is not a pack.
            StoreError: if the store does not answer, or does not send it.
        """
        try:
            return parse_index(key, self._beginning(key, size), size)
        except RecordError:
            if self._kept(key) is not None:
                raise
            return parse_index(key, self._whole(key), size)  # parts of it may have come from a poor server

    # --- reading ----------------------------------------------------------------------------------------------------

    @staticmethod
    def _shows(prefix: str) -> bool:
        rest = prefix.removeprefix(_RESULTS)
        return rest != prefix and "/" in rest and not rest.partition("/")[2].startswith(".")

    def _kept(self, key: str) -> bytes | None:
        with self._lock:
            value = self._packs.pop(key, None)
            if value is not None:
                self._packs[key] = value
            return value

    def _keep(self, key: str, value: bytes) -> None:
        if 0 < len(value) <= MAX_PACK_BYTES:
            with self._lock:
                self._packs.pop(key, None)
                self._packs[key] = value
                while len(self._packs) > 1 and sum(map(len, self._packs.values())) > KEPT_PACKS:
                    del self._packs[next(iter(self._packs))]

    def _note(self, job_id: str, listed: Iterator[Entry]) -> _Log:
        """Read the indexes of listed packs."""

        def read(entry: Entry) -> PackIndex | None:
            try:
                return self.read_index(entry.key, entry.size)
            except (RecordError, *VALUE_ERRORS):
                return None

        known = self._logs.get(job_id)
        indexes: dict[str, PackIndex | None] = {}
        versions: dict[str, VersionToken] = {}
        unread: list[Entry] = []
        for entry in listed:
            versions[entry.key] = entry.version
            if known is not None and known.versions.get(entry.key, entry.version) != entry.version:
                self._packs.pop(entry.key, None)
            elif known is not None and entry.key in known.indexes:
                indexes[entry.key] = known.indexes[entry.key]
                continue
            if entry.value is not None:
                self._keep(entry.key, entry.value)
                indexes[entry.key] = read(entry)
            else:
                unread.append(entry)
        if len(unread) > 1 and not getattr(self.unpacked, "is_local", False):
            with bulk_reads(self.unpacked), ThreadPoolExecutor(THREADS) as threads:
                indexes.update(zip((entry.key for entry in unread), threads.map(read, unread), strict=True))
        else:
            indexes.update((entry.key, read(entry)) for entry in unread)
        ordered = ((key, indexes[key]) for key in sorted(indexes, key=_log_order))
        usable = {key: index for key, index in ordered if index is not None}
        unusable = [Entry(key, VersionToken(""), None) for key, index in indexes.items() if index is None]
        log = _Log(usable, unusable, versions)
        with self._lock:
            self._logs.pop(job_id, None)
            self._logs[job_id] = log
            while len(self._logs) > 1 and sum(one.memory for one in self._logs.values()) > KEPT_INDEXES:
                del self._logs[next(iter(self._logs))]
        return log

    def _beginning(self, key: str, size: int | None) -> bytes:
        """Return the bytes of a pack to the end of its index at least."""
        is_small = size is not None and size <= BEGINNING
        if self._get_range is None or is_small or self._kept(key) is not None:
            return self._whole(key)
        beginning = self._get_range(key, 0, BEGINNING) or b""
        lacking = HEAD.size + index_length(key, beginning) - len(beginning)
        return beginning + (self._get_range(key, len(beginning), lacking) or b"" if lacking > 0 else b"")

    def _whole(self, key: str) -> bytes:
        if (whole := self._kept(key)) is not None:
            return whole
        with self._lock:
            reading = self._reading.setdefault(key, threading.Lock())
        with reading:  # threads that ask for outputs of one pack read it once
            if (whole := self._kept(key)) is None:
                found = self.unpacked.get(key)
                whole = b"" if found is None else found.value  # it was removed
                self._keep(key, whole)
        self._reading.pop(key, None)
        return whole

    def _read(self, index: PackIndex, row: Row) -> Versioned:
        """Return an output of a pack.

        Raises:
            StoreError: if the pack is damaged there, or if the store does not answer.
        """
        value = index.inline(row) if row.size else b""
        if value is None:
            start, length = index.span(row)
            is_again, self._last.key = getattr(self._last, "key", "") == index.key, index.key
            log = self._logs.get(index.job_id)
            is_small = log is not None and log.bytes <= WHOLE_BYTES
            if self._get_range is None or is_again or is_small or self._kept(index.key) is not None:
                value = self._whole(index.key)[start : start + length]
            else:
                value = self._get_range(index.key, start, length) or b""
        if len(value) != row.size or digest_of(value) != row.digest:
            output = f"{row.param_id[:12]}…/{row.seed}/{row.name}"
            raise StoreError(f"The pack {index.key} is damaged: {output} is not as its index says.")
        return Versioned(value, VersionToken(index.key))


def by_pack(store: ReadableStore, outputs: Iterator[T], pack_of: Callable[[T], VersionToken]) -> Iterator[T]:
    """Yield outputs, or tasks with theirs, so that each pack is read once for each `WINDOW` of them."""
    if not isinstance(store, PackedStore):
        yield from outputs
        return
    while window := list(itertools.islice(outputs, WINDOW)):
        yield from sorted(window, key=pack_of)


def pack_of(outputs: Mapping[str, Entry]) -> VersionToken:
    """Return the version of an output of a task, which names its pack: that of all its small outputs."""
    return next((entry.version for entry in outputs.values()), VersionToken(""))


def _entries(index: PackIndex, prefix: str, after: str) -> Iterator[Entry]:
    """Yield the outputs of a pack whose keys begin with a prefix and are behind a key."""
    root = f"{_RESULTS}{index.job_id}/"
    below, version = prefix[len(root) :], VersionToken(index.key)
    is_of_set = _PARAM.match(below) is not None
    for row in index.rows(index.place_of(below[:64]) if is_of_set else 0):
        key = f"{root}{row.param_id}/{row.seed}/{row.name}"
        if key.startswith(prefix) and key > after:
            yield Entry(key, version, index.inline(row), row.size)
        elif is_of_set and row.param_id != below[:64]:
            return


def _log_order(key: str) -> tuple[int, int]:
    parts: Mapping[str, str] = PACK.parse(key) or {}
    return int(parts["number"]), int(parts["shard"])


def show_packs(store: VersionedStore) -> VersionedStore:
    """Return a store with its packed outputs as keys. Embedded stores have no packs."""
    return store if getattr(store, "is_local", False) or isinstance(store, PackedStore) else PackedStore(store)
