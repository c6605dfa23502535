"""The page of charts: each part leads to its jobs, and what jobs used."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from html import unescape
from typing import Any

import pytest

from mopsjobs.registry.transitions import ShardReport
from mopsjobs.registry.usage import ShardUsage
from mopsjobs.utils.times import json_time
from support.cli import START, Cli, Remote, add, foreign, key
from support.web import Web, flat

USED = ShardUsage(cpu_seconds=7200.0, task_seconds=10800.0, held_core_seconds=14400.0, max_rss_bytes=512 * 2**20)

NOW = START + timedelta(days=3)


def history(*times: tuple[str, datetime]) -> dict[str, Any]:
    """Return the fields of a record with this history."""
    steps = [{"status": status, "at": json_time(at), "id": f"{number}"} for number, (status, at) in enumerate(times)]
    return {"transitions": steps, "created_at": steps[0]["at"], "updated_at": steps[-1]["at"]}


def put(remote: Remote, job_id: str, *times: tuple[str, datetime], **fields: Any) -> None:
    """Store the record of a job with this history."""
    remote.put(key(job_id), foreign(job_id, times[-1][0], **history(*times), **fields))


@pytest.fixture
def web(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> Web:
    """Return jobs of three days, mirrored: on each, one more ended than on the day before."""
    for day in range(3):
        for number in range(day + 1):
            at = START + timedelta(days=day, minutes=10 * number)
            end = "failed" if number == 1 else "succeeded"
            owner = "ada" if number else "grace"
            run = (("pending", at), ("running", at + timedelta(minutes=5)), (end, at + timedelta(hours=1)))
            put(remote, f"job-{day}-{number}", *run, owner=owner)
    put(remote, "waits", ("pending", NOW - timedelta(minutes=90)), owner="ada")
    put(remote, "runs", ("pending", NOW - timedelta(days=2)), ("running", NOW - timedelta(hours=30)), owner="grace")
    cli.clock.moment = NOW
    cli.ok("sync", "-q")
    return Web(cli, capsys)


def section(page: str, name: str) -> str:
    """Return the section of a name."""
    [found] = re.findall(rf'<section aria-label="{name}".*?</section>', page, re.DOTALL)
    return str(found)


def links(text: str) -> list[tuple[str, str]]:
    """Return address and title of each link in drawings."""
    found = re.findall(r'<a href="([^"]+)"[^>]*>(?:<text[^>]*>)?<title>([^<]*)</title>', text)
    return [(unescape(to), unescape(title)) for to, title in found]


def test_the_levels_of_a_day_lead_to_the_jobs_that_were_there(web: Web) -> None:
    """Also to those that still run; not to those of other days."""
    found = {
        title.partition(":")[0]: to for to, title in links(section(web.ok("/charts?days=7"), "Queued and running"))
    }
    assert set(web.ids(found[f"{START:%Y-%m-%d}"])) == {"job-0-0"}
    assert set(web.ids(found[f"{START + timedelta(days=1):%Y-%m-%d}"])) == {"job-1-0", "job-1-1", "runs"}


def test_charts_without_figures_say_so(cli: Cli, remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    """Instead of an empty drawing or table."""
    add(remote.jobs, "new", "pending")
    cli.ok("sync", "-q")
    assert "No job tells what it used." in Web(cli, capsys).ok("/charts")


def test_cost_is_that_of_summary(web: Web, cli: Cli, remote: Remote) -> None:
    """The same figures by the same names; jobs that do not tell are counted, and not taken for nothing."""
    for number in range(3):
        add(remote.jobs, f"used-{number}", "running", owner="emmy")
        if number < 2:
            remote.jobs.report_shard(f"used-{number}", 0, 1, ShardReport(1, 0, usage=USED))
    cli.ok("sync", "-q")
    page = web.ok("/charts")
    whole = cli.ok("summary").out
    [used] = re.findall(r"^Used +(.*)$", whole, re.MULTILINE)
    assert f"Used: {used}. Not known: 9 jobs of 11" in flat(page)
    [row] = re.findall(r'<tr><th scope="row".*?</tr>', flat(section(page, "Cost by owner")))
    texts = [unescape(re.sub(r"<[^>]+>", "", cell)).strip() for cell in re.findall(r"<t[hd].*?</t[hd]>", row)]
    assert texts == ["emmy", "4h", "6h", "8h", "50 %", "512 MiB", "2"]
