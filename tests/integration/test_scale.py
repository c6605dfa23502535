"""Many at once: a crowd at one cache."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

from mopsjobs.registry.job_registry import JobRegistry
from support.cli import Cli, command, environment, foreign, key
from support.docs import ROOT
from support.servers import PATIENT, Azurite

READERS = 50
SYNCS = 5
ROUNDS = 2


CROWD = """
import contextlib, io, json, sys
import mops_jobs
for _ in range(int(sys.argv[1])):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = mops_jobs.main(sys.argv[2:])
    if code:
        sys.exit(code)
    document = json.loads(out.getvalue())
    print(document.get("total", "synced"))
"""
"""Runs the command a few times in one process: the crowd is tested, not the start of an interpreter. Prints the
total of each listing."""


def _crowd(cli: Cli) -> list[tuple[str, str, int]]:
    """Start readers and syncs at one cache all at once, and see how each ends."""
    reader = [str(ROUNDS), "list", "--json", "--offline", "--limit", "1"]
    sync = [str(ROUNDS), "sync", "--json", "--full", "-q"]
    started = [
        subprocess.Popen(
            [sys.executable, "-c", PATIENT + CROWD, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(cli, PYTHONPATH=str(ROOT)),
            text=True,
        )
        for words in [*[reader] * (READERS // 2), *[sync] * SYNCS, *[reader] * (READERS - READERS // 2)]
    ]
    ended = []
    for process in started:
        out, err = process.communicate()
        ended.append((out, err, process.returncode))
    return ended


def _assert_all_well(ended: list[tuple[str, str, int]], total: int) -> None:
    assert len(ended) == READERS + SYNCS
    assert {(err, code) for _, err, code in ended} == {("", 0)}
    told = Counter(word for out, _, _ in ended for word in out.split())
    assert told == {str(total): READERS * ROUNDS, "synced": SYNCS * ROUNDS}


def test_a_crowd_at_one_cache_of_a_registry_in_azure(cli: Cli, azurite: Azurite) -> None:
    """50 readers and 5 syncs at once at the cache of a registry in Azure see no lock and no wrong count."""
    container = azurite.new_container()
    with azurite.client(container) as client:
        client.create_container()
        for number in range(60):
            client.upload_blob(key(f"job-{number:02}"), foreign(f"job-{number:02}"))
    cli.env["MOPS_JOBS_REGISTRY"] = f"{azurite.endpoint}/{container}"
    cli.ok("sync", "-q")
    _assert_all_well(_crowd(cli), 60)


def test_a_crowd_may_be_the_first_at_a_cache(cli: Cli, jobs: JobRegistry) -> None:
    """When there is no cache yet, all make it at once, and each sees the whole of it."""
    for number in range(20):
        jobs.register_job(f"job-{number:02}")
    assert not cli.cache.exists()
    started = [
        subprocess.Popen(
            command("list", "--json", "--limit", "0"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(cli),
            text=True,
        )
        for _ in range(8)
    ]
    ended = [(*process.communicate(), process.returncode) for process in started]
    assert {(err, code) for _, err, code in ended} == {("", 0)}
    assert {json.loads(out)["total"] for out, _, _ in ended} == {20}
