"""Sync under bad conditions: runs needed, time and rows after each run, beside the limit of the line.

`python -m bench.conditions_table [--records 5000] [--runs 4] [--only WORD] [--program FILE]` prints a line of a table
for each condition, as it is measured. Conditions are measured one after the other.
"""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from bench import azurite, proxy, registry_data
from bench.conditions import POISONS, Conditions, imposed
from bench.machine import ROOT


class Case(NamedTuple):
    """A condition."""

    name: str
    conditions: Conditions = Conditions()
    delay: float = 0.0
    bits_per_second: float = 0.0


def cases(key: str) -> Iterator[Case]:
    """Yield all conditions. `key` is the one that is poisoned."""
    yield Case("good network")
    for kind in POISONS:
        yield Case(f"poison: {kind}", Conditions(poisons={key: kind}))
    for share in (0.2, 0.4):
        yield Case(f"503: {share:.0%}", Conditions(busy=share))
        yield Case(f"503: {share:.0%} and bursts", Conditions(busy=share, burst_seconds=2.0))
    yield Case("503: 20%, Retry-After 1", Conditions(busy=0.2, retry_after=1))
    for seconds in (0.03, 0.095, 0.15, 0.3):
        yield Case(f"serial: {seconds * 1000:.0f} ms", Conditions(serial_seconds=seconds))
    for share in (0.05, 0.2):
        yield Case(f"resets: {share:.0%}", Conditions(resets=share))
    for seconds in (4.0, 6.0, 20.0):
        yield Case(f"stall: {seconds:.0f} s once", Conditions(stall_at=500, stall_seconds=seconds))
    for milliseconds in (30, 300):
        yield Case(f"latency: {milliseconds} ms", delay=milliseconds / 1000)
    for kbits in (256, 64, 24):
        yield Case(f"line: {kbits} kbit/s", bits_per_second=kbits * 1000)


@contextlib.contextmanager
def reached(server: azurite.Azurite, case: Case) -> Iterator[azurite.Azurite]:
    """Yield the server as it is reached under a condition, while the block runs."""
    with contextlib.ExitStack() as stack:
        port = server.port
        if case.conditions != Conditions():
            port = stack.enter_context(imposed(port, case.conditions)).port
        if case.delay:
            port = stack.enter_context(proxy.delayed(port, case.delay))
        if case.bits_per_second:
            port = stack.enter_context(proxy.limited(port, case.bits_per_second))
        yield azurite.Azurite(port)


def measure(url: str, env: dict[str, str], cache: Path, words: argparse.Namespace) -> str:
    """Sync until all records but a poisoned one are mirrored. Return the exit code, time and rows of each run."""
    runs = []
    for _ in range(words.runs):
        begun = time.monotonic()
        command = [sys.executable, words.program, "sync", "-q", "--registry", url, "--cache", str(cache)]
        try:
            code = subprocess.run(
                command, env=env, stderr=subprocess.DEVNULL, check=False, timeout=words.timeout
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
        runs.append(f"{code}: {_rows(cache):,} in {time.monotonic() - begun:.1f} s")
        if code in (0, 7):
            break
    return " · ".join(runs)


def _rows(cache: Path) -> int:
    if not cache.exists():
        return 0
    with contextlib.closing(sqlite3.connect(cache)) as connection:
        try:
            return int(connection.execute("SELECT count(*) FROM job").fetchone()[0])
        except sqlite3.Error:
            return 0


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=5000)
    parser.add_argument("--runs", type=int, default=4)
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds per run")
    parser.add_argument("--only", action="append", help="measure the conditions with this word")
    parser.add_argument("--ours", action="store_true", help="records of mops-jobs, which listings carry")
    parser.add_argument("--program", default=str(ROOT / "mops_jobs.py"))
    words = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, azurite.running(Path(directory)) as server:
        container = azurite.new_container()
        registry_data.fill(server, container, words.records, ours=words.ours)
        key = f"jobs/{_some_job(server, container)}/state.json"
        for number, case in enumerate(cases(key)):
            if words.only and not any(word in case.name for word in words.only):
                continue
            cache = Path(directory) / f"cache-{number}.db"
            with reached(server, case) as way:
                env = {"HOME": directory, "PATH": "/usr/bin:/bin", **way.env}
                print(f"| {case.name} | {measure(way.url(container), env, cache, words)} |", flush=True)


def _some_job(server: azurite.Azurite, container: str) -> str:
    from azure.storage.blob import ContainerClient

    with ContainerClient.from_connection_string(server.connection_string, container) as client:
        names = list(client.list_blob_names(results_per_page=100).by_page().__next__())
    return str(names[len(names) // 2]).split("/")[1]


if __name__ == "__main__":
    main()
