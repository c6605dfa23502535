"""Filters and searches in SQL mean what the same filters mean in plain Python."""

from __future__ import annotations

import fnmatch
import os
import re
import signal
import sqlite3
import subprocess
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from mopsjobs.app.run.job_arguments import FILTERS
from mopsjobs.cache.queries import filters, statistics
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.registry.status import ACTIVE, TERMINAL, JobStatus
from support.cached_jobs import STATUSES, Job, fill, made_of
from support.cli import START, Cli, Remote, add, command, environment

WORDS = st.text("aB%_\\", max_size=3)
TIMES = st.integers(0, 100)
JOBS = st.dictionaries(
    st.text("abX-", min_size=1, max_size=3),
    made_of(
        status=STATUSES,
        created=TIMES,
        changed=TIMES,
        owner=st.sampled_from(["ada", "Abba", None]),
        name=st.none() | WORDS,
        namespace=st.sampled_from(["ns", "other", None]),
        labels=st.dictionaries(st.sampled_from("kl"), st.sampled_from(["1", "aB", ""])),
        study=WORDS,
        error=st.none() | WORDS,
        note=st.none() | WORDS,
    ).map(lambda job: job._replace(ended=None if job.is_active else job.changed)),
    max_size=12,
)

CHOSEN = st.fixed_dictionaries(
    {},
    optional={
        "statuses": st.sampled_from([ACTIVE, TERMINAL, ACTIVE | {JobStatus.FAILED}, frozenset({JobStatus.RUNNING})]),
        "since": TIMES,
        "until": TIMES,
        "ended_since": TIMES,
        "name": st.sampled_from(["a*", "*-*", "[ab]?", "X", "*"]),
        "match": st.sampled_from(["a", "^b", "-$", "a|X", "."]),
        "labels": st.lists(st.tuples(st.sampled_from("kl"), st.sampled_from(["1", "", None])), max_size=2).map(tuple),
        "namespace": st.sampled_from(["ns", "nowhere"]),
        "owner": st.sampled_from(["ada", "eve"]),
        "text": WORDS,
        "error": WORDS,
    },
)


def _has(text: str, *places: str | None) -> bool:
    return any(text.lower() in place.lower() for place in places if place is not None)


def _passes(job_id: str, job: Job, chosen: dict[str, Any]) -> bool:
    """Return what each condition means, said once more in plain Python."""
    names = [name for name in (job_id, job.name) if name is not None]
    statuses, labels = chosen.get("statuses"), chosen.get("labels", ())
    in_group = statuses is not None and statuses >= ACTIVE and job.is_active
    texts = (job_id, job.name, job.owner, job.study, job.error, job.note, *job.labels.values())
    return (
        (statuses is None or job.status in statuses or in_group)
        and ("since" not in chosen or job.is_active or job.changed >= chosen["since"])
        and ("until" not in chosen or job.created <= chosen["until"])
        and ("ended_since" not in chosen or job.ended is None or job.ended >= chosen["ended_since"])
        and ("name" not in chosen or any(fnmatch.fnmatchcase(name, chosen["name"]) for name in names))
        and ("match" not in chosen or any(re.search(chosen["match"], name) for name in names))
        and all(job.labels.get(k) == v if v is not None else k in job.labels for k, v in labels)
        and ("namespace" not in chosen or job.namespace == chosen["namespace"])
        and ("owner" not in chosen or job.owner == chosen["owner"])
        and ("text" not in chosen or _has(chosen["text"], *texts))
        and ("error" not in chosen or _has(chosen["error"], job.error))
    )


@settings(max_examples=300, deadline=None)
@given(jobs=JOBS, chosen=CHOSEN, limit=st.integers(0, 6), sort=st.sampled_from(["name", "-name", "-updated", "status"]))
def test_the_sql_means_what_plain_python_means(
    cache: sqlite3.Connection, jobs: dict[str, Job], chosen: dict[str, Any], limit: int, sort: str
) -> None:
    """The rows, their order, the cut, the total and the counts. A search that is made once for all finds the same."""
    fill(cache, jobs)
    order = filters.parse_sort(sort)
    in_order = [job_id for (job_id,) in cache.execute(f"SELECT job_id FROM job ORDER BY {order}")]
    job_filter = filters.Filter()
    for name, value in chosen.items():
        if name in ("name", "namespace", "owner"):
            FILTERS[name].apply(job_filter, value, START)
        else:
            setattr(job_filter, name, value)
    passing = [job_id for job_id in in_order if _passes(job_id, jobs[job_id], chosen)]
    first = passing if limit == 0 else passing[:limit]

    page = job_queries.list_jobs(cache, job_filter, order=order, limit=limit, now=1000.0)
    assert [job_id for (job_id,) in page.ids()] == [
        job_id for job_id in passing if job_id in first or jobs[job_id].is_active
    ]
    assert page.total == len(passing)
    cache.rollback()
    with filters.searching(cache, job_filter):
        page_of = job_queries.page_of_jobs(cache, job_filter, order=order, limit=20, offset=0, now=1000.0)
        assert [job["job_id"] for job in page_of] == passing
        counts = statistics.by_status(cache, job_filter)
    statuses = [jobs[job_id].status for job_id in passing]
    assert counts == {status: statuses.count(status) for status in statuses}


def test_a_search_that_has_found_all_jobs_ends(cache: sqlite3.Connection) -> None:
    """A word in all ids is searched in ids alone, and no query after that has a condition for it."""
    fill(cache, {f"job-{number}": Job("failed", labels={"k": "job"}, error="E", note="n") for number in range(3)})
    searches: list[str] = []
    cache.set_trace_callback(lambda sql: searches.append(sql) if "LIKE" in sql else None)
    chosen = filters.Filter(text="job-")
    with filters.searching(cache, chosen):
        assert chosen.clauses() == filters.Filter().clauses()
    cache.set_trace_callback(None)
    assert len(searches) == 1
    assert "job_id LIKE" in searches[0]


HARD_ID = "a" * 60
HARD = "(a+)+b$"
"""An expression for which `re` takes longer than a lifetime, on that id."""


@pytest.fixture
def hard(cli: Cli, remote: Remote) -> Cli:
    add(remote.jobs, HARD_ID)
    cli.ok("sync", "-q")
    return cli


SEARCH = """
import os, re
import mops_jobs
from mopsjobs.cache.queries import matching
class Telling:
    def __init__(self, pattern):
        self._search = re.compile(pattern).search
    def search(self, text):
        os.write(1, b".")
        return self._search(text)
matching.compile_pattern = Telling
mops_jobs.entry()
"""
"""The command, which prints a dot before each search."""


def test_ctrl_c_ends_a_search(hard: Cli) -> None:
    """In the middle of the expression: exit code 130, and no word about the cache."""
    python, script = command()
    argv = [python, "-c", SEARCH, "list", "--match", HARD]
    env = environment(hard, PYTHONPATH=os.path.dirname(script))
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"."
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out.strip(b"."), err) == (130, b"", b"")


def test_a_glob_of_many_stars_ends(hard: Cli) -> None:
    """SQLite gives a glob up where its last star has failed, and does not try the stars before it again."""
    assert hard.ok("list", "-q", "--name", "*a" * 499 + "*b").out == ""
