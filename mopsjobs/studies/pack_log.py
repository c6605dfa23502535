"""Write the packs of a shard: its log, in which each number is created once.

See docs/decisions/0113-packs.md. `packed_store.py` reads what is written here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from mopsjobs.errors import VALUE_ERRORS, MopsJobsError, RecordError
from mopsjobs.registry.keys import PACK
from mopsjobs.store.base import VersionedStore
from mopsjobs.studies.manifest import Manifest, load_manifest
from mopsjobs.studies.packed_store import PackedStore
from mopsjobs.studies.packs import MAX_ROWS, PACK_BYTES, PackIndex, encode_pack

MAX_KEYS_BYTES = 50 * 2**10
"""What the index of a pack may take of the limit of a store, about."""


class PackLog:
    """The packs of one shard of a job. Not thread-safe.

    Args:
        store: where the packs go.
        job_id: the job.
        shard: the number of the shard.
    """

    def __init__(self, store: PackedStore, job_id: str, shard: int) -> None:
        self.store = store
        self.limit = PACK_BYTES
        """Bytes of outputs in a pack, about."""
        self.max_rows = MAX_ROWS
        if (most := getattr(store, "max_value_bytes", None)) is not None:
            self.limit = min(PACK_BYTES, most - MAX_KEYS_BYTES)
            self.max_rows = MAX_KEYS_BYTES // 80
        self._job_id, self._shard = job_id, shard
        self._number: int | None = None
        """The next one; None before the log was listed."""
        self._others: list[PackIndex] = []
        """The packs of other writers that were met."""

    def of_shard(self, shard: int) -> PackLog:
        """Return the log of another shard of the job."""
        return PackLog(self.store, self._job_id, shard)

    def add(self, outputs: Sequence[tuple[str, bytes]]) -> None:
        """Write outputs for which `can_pack` is true into a pack. One that the log has already stays as it is.

        Raises:
            StoreUnavailableError: if the store does not answer. A repetition does no harm.
            StoreError: if the store refuses the pack.
        """
        rest = dict(outputs)
        for taken in self._others:
            self._leave_out(taken, rest)
        while rest:
            number = self._next_number() if self._number is None else self._number
            key = PACK.key(job=self._job_id, shard=self._shard, number=f"{number:06d}")
            if self.store.create_if_absent(key, encode_pack(self._job_id, self._shard, rest.items())) is not None:
                rest = {}
            else:
                # By another runner of the shard; or by this one, if a reply was lost, and then it has all of these.
                with contextlib.suppress(RecordError, *VALUE_ERRORS):
                    self._others.append(self.store.read_index(key))
                    self._leave_out(self._others[-1], rest)
            self._number = number + 1

    def _leave_out(self, taken: PackIndex, outputs: dict[str, bytes]) -> None:
        root = PACK.prefix_of(self._job_id)
        for row in taken.rows():
            outputs.pop(f"{root}{row.param_id}/{row.seed}/{row.name}", None)

    def _next_number(self) -> int:
        """Return the number behind the packs that were listed last: later ones may have some of the outputs, too."""
        found = map(PACK.parse, self.store.listed_packs(self._job_id))
        return max((int(one["number"]) for one in found if one and one["shard"] == str(self._shard)), default=-1) + 1


def pack_log(store: VersionedStore, manifest: Manifest, shard: int) -> PackLog | None:
    """Return the log of a shard; None if its outputs stay objects of their own.

    They do in an embedded store, and if the study says so.
    """
    if not isinstance(store, PackedStore) or not manifest.study.packs or "/" in manifest.job_id:
        return None
    return PackLog(store, manifest.job_id, shard)


def find_pack_log(store: VersionedStore, job_id: str, shard: int) -> PackLog | None:
    """Return the log of a shard of a stored job, as `pack_log` does; None also if its manifest cannot be read."""
    if isinstance(store, PackedStore):
        with contextlib.suppress(MopsJobsError):
            return pack_log(store, load_manifest(store, job_id), shard)
    return None
