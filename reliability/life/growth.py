"""What must not grow in a day, by how much it may all the same, and the hours in which it is looked at."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mopsjobs.store.network import POOL_CONNECTIONS
from mopsjobs.utils.sqlite_file import WAL_BYTES
from mopsjobs.web.site.site import MAX_IDLE
from reliability.trial import hold

WARM = range(5, 8)
"""The hours that the last ones are compared with: by then the first jobs have grown old enough to go."""

LONG = 9
"""Hours, the first and the last of what swings."""


@dataclass(frozen=True)
class Growth:
    """The permitted growth of a figure from the hours of `WARM` to the last quarter of the day."""

    what: str
    field: str
    part: float
    """Of what it was."""
    more: float
    """Besides, for what has nothing to do with age: threads of a pool that have not been needed before, say."""
    unit: str = ""
    always: float = 0
    """What it may be in any case."""
    swings: bool = False
    """Whether it goes up and down from hour to hour, as a file that shrinks when its last reader leaves.

    Then the lowest of the last hours counts, which includes what stays for ever. It is compared with the usual value
    before, since the lowest of then may have been one lucky hour.
    """
    only: str = ""
    """Over which of the two registries it is looked at; both when empty."""

    @property
    def hours(self) -> str:
        """Return which hours are compared, in words."""
        if self.swings:
            return f"hours {WARM.start + 1} to {WARM.start + LONG} / lowest of {25 - LONG} to 24"
        return f"hours {WARM.start + 1} to {WARM.stop} / 19 to 24"


WAL = WAL_BYTES + 2**19
"""Bytes that one may have in any case: SQLite begins it anew after 1,000 pages, and the last write may go beyond."""

GROWTHS = (
    Growth("open files of who syncs", "cron_files", 0, 1),
    # Connections to the server are kept, and a busier moment opens more. A file has none. But readers of
    # the cache keep two files each, and those that SQLite cannot close while another one reads, and uses again.
    Growth("open files of the page", "page_files", 0, 6, always=3 * POOL_CONNECTIONS, only="Azurite"),
    Growth("open files of the page", "page_files", 0, 4 * MAX_IDLE, only="embedded"),
    Growth("open files of the writers", "writers_files", 0.1, 12),
    Growth("threads of who syncs", "cron_threads", 0, 1),
    Growth("threads of the page", "page_threads", 0, 2),
    Growth("memory of who syncs", "cron_memory", 0.05, 2048, " KiB"),
    Growth("memory of the page", "page_memory", 0.05, 4096, " KiB"),
    Growth("memory in use of who syncs", "cron_in_use", 0.01, 128, " KiB"),
    Growth("memory in use of the page", "page_in_use", 0.02, 256, " KiB"),
    # Two megabytes of a file at most are kept by each connection, after a full sync, say.
    Growth("memory of SQLite of who syncs", "cron_sqlite", 0, 2304, " KiB"),
    Growth("memory of SQLite of the page", "page_sqlite", 0, 2 * 2304, " KiB"),
    Growth("small objects of who syncs", "cron_blocks", 0.01, 1000),
    Growth("small objects of the page", "page_blocks", 0.01, 2000),
    Growth("cache, without what it keeps of each pruned job", "cron_cache", 0.1, 65536, " bytes", swings=True),
    Growth("cache of the page, without the same", "page_cache", 0.1, 65536, " bytes", swings=True),
    Growth("rows of the cache, without the same", "cron_rows", 0.1, 50),
    Growth("rows of the cache of the page, without the same", "page_rows", 0.1, 50),
    Growth("WAL of the cache", "cron_wal", 0, 0, " bytes", WAL),
    Growth("WAL of the cache of the page", "page_wal", 0, 0, " bytes", WAL),
    Growth("WAL of the registry", "registry_wal", 0, 0, " bytes", WAL, only="embedded"),
    Growth("announcements in the store", "announcements", 0.05, 20),
    Growth("chunks of events in the store", "chunks", 0.1, 20),
    Growth("names of chunks in the cache", "names", 0.1, 20),
    Growth("requests of a delta sync", "requests", 0.1, 3),
)


Hour = dict[str, float]
"""The figures at the end of an hour by their fields. `requests` is NaN where no sync was a delta."""

HELD = ("files", "threads", "memory", "in_use", "sqlite", "blocks")
"""What a process tells of itself: the fields of an hour, behind its role."""


class Growths:
    """The figures that have grown in these hours, over that registry."""

    def __init__(self, hours: Sequence[Hour], name: str) -> None:
        self._hours = hours
        self._growths = [one for one in GROWTHS if one.only in ("", name)]

    def typical(self) -> Iterator[tuple[Growth, float, float]]:
        """Yield each with what it was in the hours of `WARM`, and in the last quarter; or in `LONG` hours each."""
        for growth in self._growths:
            values = self._values(growth)
            if growth.swings:
                yield growth, _median(values[WARM.start : WARM.start + LONG]), min(values[-LONG:])
            else:
                yield growth, _median(values[WARM.start : WARM.stop]), _median(values[-6:])

    def grown(self) -> list[str]:
        """Return a sentence for each that is more than it may be.

        Raises:
            PromiseBroken: nothing was counted of something.
        """
        told = []
        for growth, first, last in self.typical():
            # A WAL alone may be gone.
            hold(min(first, last) > 0 or growth.always == WAL, f"nothing was counted of: {growth.what}")
            if last > max(growth.always, first * (1 + growth.part) + growth.more):
                hours = " ".join(f"{value:,.0f}" for value in self._values(growth))
                told.append(f"{growth.what}: {first:,.1f}, and {last:,.1f} in the end{growth.unit} (hours: {hours})")
        return told

    def _values(self, growth: Growth) -> list[float]:
        return [hour.get(growth.field, 0) for hour in self._hours]


def _median(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else 0.0
