"""Updates by compare-and-swap: one writer against a bare GET and conditional PUT, and many processes on one record.

`python -m bench.updating URL NAME UPDATES` is a writer. It says "ready", waits for a line or the end of its input, and
then prints what its updates took. The start of the process would hide the ratio.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
from typing import Any

from bench import azurite, tools
from bench.clients import UPDATES, timer
from bench.listing import RUNS_FACTOR
from bench.machine import Setup
from bench.measure import Case, in_turn, progress
from bench.report import Line, at_most
from mopsjobs.errors import MopsJobsError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store import open_store

JOB = "contested"
ALONE_RATIO = 1.2
WRITERS, UPDATES_EACH = 16, 10
MAX_ATTEMPTS = 2.5
"""Conditional writes per update, with that many writers on one record."""


def run(setup: Setup) -> list[Line]:
    """Measure updates of a record without other writers, and with them."""
    with azurite.running(setup.directory) as server:
        return [_alone(setup, server), *_contended(setup, server)]


def _alone(setup: Setup, server: azurite.Azurite) -> Line:
    container = azurite.new_container()
    url = server.url(container)
    with contextlib.closing(open_store(url, server.env)) as store:
        JobRegistry(store).register_job(JOB)
    commands = (
        setup.module("bench.updating", url, "alone", str(UPDATES)),
        setup.module("bench.clients", "update", container, packages=tools.packages()),
    )
    printed: list[list[str]] = [[], []]
    cases = [
        Case(argv, {**env, **server.env}, check=outputs.append)
        for (argv, env), outputs in zip(commands, printed, strict=True)
    ]
    runs = setup.runs * RUNS_FACTOR
    progress(f"{UPDATES} updates of one record, {runs} rounds")
    in_turn(cases, runs, setup.directory)
    ours, theirs = ([json.loads(text.splitlines()[-1]) for text in texts[1:]] for texts in printed)  # one warms up
    ratio, cpu_ratio = (
        statistics.median(mine[kind] / other[kind] for mine, other in zip(ours, theirs, strict=True))
        for kind in ("seconds", "cpu_seconds")
    )
    times = [f"{statistics.median(one['seconds'] for one in told) / UPDATES * 1000:.1f} ms" for told in (ours, theirs)]
    return Line("one update", times[0], f"GET and PUT, {times[1]}", ratio, cpu_ratio, at_most(ALONE_RATIO, ratio, " x"))


def _contended(setup: Setup, server: azurite.Azurite) -> list[Line]:
    attempts: list[float] = []
    seconds: list[float] = []
    failures = lost = 0
    progress(f"{WRITERS} writers on one record, {setup.runs} rounds")
    for _ in range(setup.runs):
        url = server.url(azurite.new_container())
        with contextlib.closing(open_store(url, server.env)) as store:
            registry = JobRegistry(store)
            registry.register_job(JOB)
            told = _race(setup, url, server.env)
            record = registry.get_job(JOB)
        gave_up = sum(one["failures"] for one in told)
        successes = WRITERS * UPDATES_EACH - gave_up
        failures += gave_up
        lost += successes - (record.revision - 1 if record is not None else 0)
        attempts.append(sum(one["puts"] for one in told) / max(successes, 1))
        seconds.append(max(one["seconds"] for one in told) / max(successes, 1))
    tries = statistics.median(attempts)
    updates = setup.runs * WRITERS * UPDATES_EACH
    rate = f"{statistics.median(seconds) * 1000:.1f} ms an update, {updates:,} updates"
    what = f"{WRITERS} processes on one record"
    return [
        Line(f"{what}: attempts a success", f"{tries:.2f}", "no contention", tries, None, None,
             at_most(MAX_ATTEMPTS, tries, "")),
        Line(f"{what}: updates that gave up", str(failures), rate, None, None, at_most(0, failures, "")),
        Line(f"{what}: updates lost", str(lost), rate, None, None, at_most(0, lost, "")),
    ]  # fmt: skip


def _race(setup: Setup, url: str, server_env: dict[str, str]) -> list[dict[str, Any]]:
    """Let the writers start together, and return what they tell."""
    writers: list[subprocess.Popen[str]] = []
    try:
        for number in range(WRITERS):
            argv, env = setup.module("bench.updating", url, f"w{number}", str(UPDATES_EACH))
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            writers.append(subprocess.Popen(argv, env={**env, **server_env}, text=True, **pipes))
        for writer in writers:
            assert writer.stdout is not None
            if writer.stdout.readline() != "ready\n":
                raise RuntimeError("A writer did not start.")
        for writer in writers:
            assert writer.stdin is not None
            writer.stdin.write("go\n")
            writer.stdin.flush()
        return [json.loads(writer.communicate(timeout=300)[0]) for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
            writer.communicate()


def _write(url: str, name: str, updates: int) -> dict[str, float]:
    """Update the record that often. What each update sets differs, so that none is a no-op."""
    store = open_store(url)
    put, puts = store.put, 0

    def counted_put(*words: Any) -> Any:
        nonlocal puts
        puts += 1
        return put(*words)

    store.put = counted_put  # type: ignore[method-assign]
    registry = JobRegistry(store)
    registry.register_job(f"warm-{os.getpid()}")  # the connection and the SDK's lazy parts, before the start
    registry.update_fields(f"warm-{os.getpid()}", metadata={name: 0})
    print("ready", flush=True)
    sys.stdin.readline()
    puts = failures = 0
    stop = timer()
    for number in range(updates):
        try:
            registry.update_fields(JOB, metadata={name: number})
        except MopsJobsError as error:
            print(error, file=sys.stderr)
            failures += 1
    told = stop()
    store.close()
    return {"puts": puts, "failures": failures, **told}


if __name__ == "__main__":
    print(json.dumps(_write(sys.argv[1], sys.argv[2], int(sys.argv[3]))))
