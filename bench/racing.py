"""Many processes that update one record at once: attempts for each success, and whether any update was lost.

`python -m bench.racing URL WRITER UPDATES` is one of them: it says "ready", waits for a line, and starts.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from bench.machine import ROOT, Setup
from mopsjobs.errors import MopsJobsError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store

if TYPE_CHECKING:
    from bench.report import Line
    from mopsjobs.store.base import VersionedStore, VersionToken

WRITERS = 16
UPDATES = 10
JOB = "contested"


class _Counting:
    """A store that counts the writes it is asked for."""

    def __init__(self, store: VersionedStore) -> None:
        self._store = store
        self.get = store.get
        self.create_if_absent = store.create_if_absent
        self.puts = 0

    def put(self, key: str, value: bytes, version: VersionToken) -> VersionToken | None:
        self.puts += 1
        return self._store.put(key, value, version)


def run(setup: Setup) -> list[Line]:
    """Let 16 processes update one record, `setup.runs` times over."""
    from bench import azurite
    from bench.measure import progress
    from bench.report import Line, at_most

    attempts: list[float] = []
    seconds: list[float] = []
    failures = lost = 0
    with azurite.running(setup.directory) as server:
        progress(f"{WRITERS} writers on one record, {setup.runs} rounds")
        for _ in range(setup.runs):
            url = server.url(azurite.new_container())
            store = open_store(url, server.env)
            registry = JobRegistry(store)
            registry.register_job(JOB)
            told, took = _race(
                url, {**os.environ, **server.env, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
            )
            found = registry.get_job(JOB)
            store.close()
            successes = sum(each["successes"] for each in told)
            lost += successes - (found.revision - 1 if found is not None else 0)
            failures += sum(each["failures"] for each in told)
            attempts.append(sum(each["puts"] for each in told) / max(successes, 1))
            seconds.append(took / max(successes, 1))
    tries = statistics.median(attempts)
    rate = f"{statistics.median(seconds) * 1000:.1f} ms an update, {setup.runs * WRITERS * UPDATES:,} updates"
    what = f"{WRITERS} processes on one record"
    return [
        Line(
            f"{what}: attempts a success", f"{tries:.2f}", "no contention", tries, None, None, at_most(2.5, tries, "")
        ),
        Line(f"{what}: updates that gave up", str(failures), rate, None, None, at_most(0, failures, "")),
        Line(f"{what}: updates lost", str(lost), rate, None, None, at_most(0, lost, "")),
    ]


def _race(url: str, env: dict[str, str]) -> tuple[list[dict[str, int]], float]:
    writers: list[subprocess.Popen[str]] = []
    try:
        for number in range(WRITERS):
            argv = [sys.executable, "-m", "bench.racing", url, f"w{number}", str(UPDATES)]
            writers.append(
                subprocess.Popen(argv, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
            )
        for writer in writers:
            assert writer.stdout is not None
            if writer.stdout.readline() != "ready\n":
                raise RuntimeError("A writer did not start.")
        start = time.perf_counter()
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
        told = [json.loads(writer.communicate(timeout=300)[0]) for writer in writers]
        return told, time.perf_counter() - start
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()


def _write(url: str, name: str, updates: int) -> dict[str, int]:
    """Update the record that often. What each update sets differs, so that none is a no-op."""
    store = open_store(url)
    counting = _Counting(store)
    registry = JobRegistry(counting)  # type: ignore[arg-type]
    store.get("warm/up")  # the connection and the SDK's lazy parts, before the start
    print("ready", flush=True)
    sys.stdin.readline()
    failures = 0
    for number in range(updates):
        try:
            registry.update_fields(JOB, metadata={name: number})
        except MopsJobsError as error:
            print(error, file=sys.stderr)
            failures += 1
    store.close()
    return {"puts": counting.puts, "successes": updates - failures, "failures": failures}


if __name__ == "__main__":
    print(json.dumps(_write(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
