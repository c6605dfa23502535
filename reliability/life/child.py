"""A process that lives through the day of `life`: what cron runs, or the page of `serve`; under watch all the time.

`python -m reliability.life.child ROLE`, where ROLE is `cron` or `page`, reads one order per line. An order is the
simulated time, and commands to run at it in this very process. So whatever one of them leaves behind piles up. The
process answers with their results and how much of the machine it holds.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import io
import json
import os
import signal
import sys
import threading
from datetime import datetime
from typing import Any, TextIO

import mops_jobs
from mopsjobs.cache.sync import mirror
from mopsjobs.store.azure import transport
from mopsjobs.store.sqlite import store as sqlite
from mopsjobs.utils.malloc import limit_malloc_arenas
from mopsjobs.utils.times import utc_now
from mopsjobs.web.site import background
from reliability.life.mutations import MUTATIONS

MUTATION = "MOPS_TRIAL_MUTATION"
"""The variable that names a defect to put in."""


class Clock:
    """The simulated time, which stands between two orders."""

    def __init__(self) -> None:
        self.moment = utc_now()

    def now(self) -> datetime:
        """Return the time."""
        return self.moment


class Requests:
    """Counts what is sent to the store, of whatever kind it is."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()
        self._count_calls(transport.AzureTransport, "send")
        self._count_calls(sqlite.SQLiteVersionedStore, "_acquire_connection")

    def _count_calls(self, kind: type, name: str) -> None:
        given = getattr(kind, name)

        def counted(*args: Any, **named: Any) -> Any:
            with self._lock:
                self.count += 1
            return given(*args, **named)

        setattr(kind, name, counted)


class OwnSyncs:
    """The syncs that the page makes by itself: counts those that succeed, and tells when none is at work."""

    def __init__(self) -> None:
        self.count = 0
        self.none_at_work = threading.Lock()
        sync, syncer = mirror.sync, background.Syncer._sync

        def counted(*args: Any, **named: Any) -> Any:
            report = sync(*args, **named)
            self.count += threading.current_thread().name == "syncer"
            return report

        def at_work(one: background.Syncer) -> str | None:
            with self.none_at_work:
                return syncer(one)

        mirror.sync = counted
        background.Syncer._sync = at_work  # type: ignore[method-assign]


class _MallInfo(ctypes.Structure):
    """The sums over all arenas of glibc (mallinfo2)."""

    _fields_ = tuple((name, ctypes.c_size_t) for name in "ar or sm hb hblkhd us fs uordblks fo ke".split())  # noqa: SIM905


def _in_use() -> tuple[int, int]:
    """Return the KiB that were asked for and not freed, without SQLite and of SQLite; 1 if a library does not tell."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        loaded = next((line.split()[-1] for line in maps if "/libsqlite3" in line), None)
    of_sqlite = 0
    if loaded is not None:
        memory_used = ctypes.CDLL(loaded).sqlite3_memory_used
        memory_used.restype = ctypes.c_int64
        of_sqlite = memory_used()
    mallinfo = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo is None:
        return 1, of_sqlite // 1024 or 1
    mallinfo.restype = _MallInfo
    told = mallinfo()
    return (told.uordblks + told.hblkhd - of_sqlite) // 1024, of_sqlite // 1024 or 1


def held() -> dict[str, int]:
    """Return how much of the machine this process holds: open files, threads, and memory.

    `memory` is what the system says, in KiB. The others are exact, and show every leak. `in_use` are the KiB that were
    asked for and not freed, without those of `sqlite`, which keeps pages of files. `blocks` are Python's small objects.
    """
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    in_use, of_sqlite = _in_use()
    return {
        "files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
        "memory": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
        "in_use": in_use,
        "sqlite": of_sqlite,
        "blocks": sys.getallocatedblocks(),
    }


def obey(orders: TextIO, answers: TextIO, clock: Clock, requests: Requests, own: OwnSyncs) -> None:
    """Run what is ordered, until there are no more orders."""
    for line in orders:
        order = json.loads(line)
        clock.moment = datetime.fromisoformat(order["now"])
        done = []
        for words in order["commands"]:
            out, before = io.StringIO(), requests.count
            with contextlib.redirect_stdout(out):
                code = mops_jobs.main(words, now=clock.now)
            # Of most commands, only whether they have said anything is of interest.
            told = out.getvalue() if "--json" in words else ""
            done.append({"code": code, "requests": requests.count - before, "out": told})
        answer = {"done": done, "own_syncs": own.count}
        if order["measure"]:
            with own.none_at_work:  # which would have megabytes for a moment
                answer |= held()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def fill_table_of_names() -> None:
    """Let CPython double its table of interned strings now: half a megabyte at once, at whatever hour that would be.

    It holds some 20,000 of them all day, and is made anew when as many again have come and gone.
    """
    for number in range(50_000):
        sys.intern(f"name {number} of the trial")


def main() -> None:
    """Live."""
    role, *words = sys.argv[1:]
    fill_table_of_names()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    if mutation := os.environ.get(MUTATION):
        MUTATIONS[mutation].put_in()
    clock, requests, own = Clock(), Requests(), OwnSyncs()
    if role == "cron":
        # A sync of cron is a process of its own. Only `serve` lives so long, and it limits its arenas itself.
        limit_malloc_arenas()
        obey(sys.stdin, answers, clock, requests, own)
        return

    def obey_to_the_end() -> None:
        obey(sys.stdin, answers, clock, requests, own)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=obey_to_the_end, daemon=True).start()
    sys.exit(mops_jobs.main(["serve", *words], now=clock.now))


if __name__ == "__main__":
    main()
