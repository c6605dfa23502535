"""A process that lives through the day of `life`: what cron runs, or the page of `serve`; under watch all the time.

`python -m reliability.life.child ROLE`, where ROLE is `cron` or `page`, reads one order a line: the simulated time, and
commands to run at it in this very process, so that whatever one of them leaves behind piles up. It answers with what
came of them and how much of the machine the process holds.
"""

from __future__ import annotations

import contextlib
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
from mopsjobs.store import azure_transport, sqlite
from mopsjobs.times import utc_now
from reliability.life.mutations import MUTATIONS

MUTATION = "MOPS_TRIAL_MUTATION"
"""The variable that names a defect to put in."""


class Clock:
    """The simulated time, which stands between two orders."""

    def __init__(self) -> None:
        self.moment = utc_now()

    def now(self) -> datetime:
        """The time."""
        return self.moment


class Requests:
    """Counts what is sent to the store, of whatever kind it is."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = threading.Lock()
        for kind in (azure_transport.BoundedTransport, azure_transport.ReadingTransport):
            self._count_calls(kind, "send")
        self._count_calls(sqlite.SQLiteVersionedStore, "_connection")

    def _count_calls(self, kind: type, name: str) -> None:
        given = getattr(kind, name)

        def counted(*args: Any, **named: Any) -> Any:
            with self._lock:
                self.count += 1
            return given(*args, **named)

        setattr(kind, name, counted)


def held() -> dict[str, int]:
    """How much of the machine this process holds: open files, KiB in memory, threads."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[1])
    return {
        "files": len(os.listdir("/proc/self/fd")),
        "memory": pages * os.sysconf("SC_PAGE_SIZE") // 1024,
        "threads": threading.active_count(),
    }


def obey(orders: TextIO, answers: TextIO, clock: Clock, requests: Requests) -> None:
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
        answer = {"done": done, **(held() if order["measure"] else {})}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Live."""
    role, *words = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for as long as the process lives
    if mutation := os.environ.get(MUTATION):
        MUTATIONS[mutation]()
    clock, requests = Clock(), Requests()
    if role == "cron":
        obey(sys.stdin, answers, clock, requests)
        return

    def obey_to_the_end() -> None:
        obey(sys.stdin, answers, clock, requests)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=obey_to_the_end, daemon=True).start()
    sys.exit(mops_jobs.main(["serve", *words], now=clock.now))


if __name__ == "__main__":
    main()
