"""Many at once: more records of another program than a page of a listing has, and a crowd at one cache."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from azure.storage.blob import generate_container_sas

from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.status import JobStatus
from support.cli import Cli, command, environment, foreign, key, sentences
from support.docs import ROOT
from support.servers import ACCOUNT, ACCOUNT_KEY, PATIENT

if TYPE_CHECKING:
    from support.servers import Azurite

RECORDS = 1_200
"""More than a page of a listing has."""
WRITERS = 8
READERS = 50
SYNCS = 5
ROUNDS = 2

STATUSES = list(JobStatus)

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


def _status(number: int) -> str:
    return STATUSES[number % len(STATUSES)]


def _write_as_another_program(azurite: Azurite, container: str) -> None:
    """Write a blob of indented JSON for each job, without metadata. By plain HTTP: the SDK takes ten times as long."""
    with azurite.client(container) as client:
        client.create_container()
    permit = generate_container_sas(
        ACCOUNT, container, ACCOUNT_KEY, permission="w", expiry=datetime.now(UTC) + timedelta(hours=1)
    )

    def write(numbers: range) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", azurite.port)) as connection:
            for number in numbers:
                name = f"job-{number:05}"
                where = f"/{ACCOUNT}/{container}/{key(name)}?{permit}"
                connection.request("PUT", where, foreign(name, _status(number)), {"x-ms-blob-type": "BlockBlob"})
                reply = connection.getresponse()
                assert reply.status == 201, reply.read()
                reply.read()

    with ThreadPoolExecutor(WRITERS) as writers:
        list(writers.map(write, [range(first, RECORDS, WRITERS) for first in range(WRITERS)]))


def test_many_records_of_another_program(cli: Cli, private_azurite: Azurite) -> None:
    """All are mirrored with the right status; with the registry stopped, looking goes on and a sync loses nothing."""
    container = private_azurite.new_container()
    _write_as_another_program(private_azurite, container)
    cli.env["MOPS_JOBS_REGISTRY"] = f"{private_azurite.endpoint}/{container}"

    report = cli.ok("sync", "--json").json
    assert (report["seen"], report["added"], report["fetched"], report["problems"]) == (RECORDS, RECORDS, RECORDS, [])
    expected = {f"job-{number:05}": _status(number) for number in range(RECORDS)}
    assert _statuses(cli.ok("list", "--json", "--limit", "0").json) == expected

    again = cli.ok("sync", "--json").json
    assert (again["unchanged"], again["fetched"]) == (RECORDS, 0)

    private_azurite.stop()
    ran = cli("sync")
    assert (ran.code, ran.out, len(sentences(ran.err))) == (5, "", 1)
    assert _statuses(cli.ok("list", "--json", "--limit", "0").json) == expected
    assert cli.ok("list", "--hours", "48", "--json").json["total"] == RECORDS
    assert cli.ok("list", "--json").json["total"] == RECORDS
    assert cli.ok("list", "--json", "--status", "failed", "--limit", "1").json["returned"] == 1
    assert cli.ok("status", "job-01111", "--json").json["status"] == _status(1111)


def _statuses(document: dict[str, Any]) -> dict[str, str]:
    return {job["job_id"]: job["status"] for job in document["jobs"]}


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
