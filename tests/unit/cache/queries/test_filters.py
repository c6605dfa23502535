"""Filters in SQL mean what the same filters mean in plain Python."""

from __future__ import annotations

import fnmatch
import json
import re
import sqlite3
from datetime import timedelta
from typing import Any

import hypothesis.strategies as st
from hypothesis import given, settings

from mopsjobs.app.run.job_arguments import FILTERS
from mopsjobs.cache import rows
from mopsjobs.cache.queries import filters
from mopsjobs.cache.queries import jobs as job_queries
from mopsjobs.cache.sync_state import transaction
from mopsjobs.registry.status import ACTIVE, TERMINAL, JobStatus
from mopsjobs.store.base import VersionToken
from support.cli import START, key

NAMES = st.text("abX-", min_size=1, max_size=3)
JOBS = st.fixed_dictionaries(
    {
        "status": st.sampled_from([*JobStatus, "hibernating"]),
        "created": st.integers(0, 100),
        "changed": st.integers(0, 100),
        "owner": st.sampled_from(["ada", "bob", None]),
        "k8s_namespace": st.sampled_from(["ns", "other", None]),
        "k8s_name": st.one_of(st.none(), NAMES),
        "labels": st.dictionaries(st.sampled_from("kl"), st.sampled_from(["1", "2", ""])),
    }
)

CHOSEN = st.fixed_dictionaries(
    {},
    optional={
        "statuses": st.sampled_from([ACTIVE, TERMINAL, ACTIVE | {JobStatus.FAILED}, frozenset({JobStatus.RUNNING})]),
        "since": st.integers(0, 100),
        "until": st.integers(0, 100),
        "ended_since": st.integers(0, 100),
        "name": st.sampled_from(["a*", "*-*", "[ab]?", "X", "*"]),
        "match": st.sampled_from(["a", "^b", "-$", "a|X", "."]),
        "labels": st.lists(st.tuples(st.sampled_from("kl"), st.sampled_from(["1", "", None])), max_size=2).map(tuple),
        "namespace": st.sampled_from(["ns", "nowhere"]),
        "owner": st.sampled_from(["ada", "eve"]),
    },
)


def _passes(job_id: str, job: dict[str, Any], chosen: dict[str, Any]) -> bool:
    """Return what each condition means, said once more in plain Python."""
    active = job["status"] not in TERMINAL
    changed = max(job["created"], job["changed"])
    names = [name for name in (job_id, job["k8s_name"]) if name is not None]
    statuses, labels = chosen.get("statuses"), chosen.get("labels", ())
    in_group = statuses is not None and statuses >= ACTIVE and active
    return (
        (statuses is None or job["status"] in statuses or in_group)
        and ("since" not in chosen or active or changed >= chosen["since"])
        and ("until" not in chosen or job["created"] <= chosen["until"])
        and ("ended_since" not in chosen or active or job["changed"] >= chosen["ended_since"])
        and ("name" not in chosen or any(fnmatch.fnmatchcase(name, chosen["name"]) for name in names))
        and ("match" not in chosen or any(re.search(chosen["match"], name) for name in names))
        and all(job["labels"].get(k) == v if v is not None else k in job["labels"] for k, v in labels)
        and ("namespace" not in chosen or job["k8s_namespace"] == chosen["namespace"])
        and ("owner" not in chosen or job["owner"] == chosen["owner"])
    )


@settings(max_examples=200)
@given(st.dictionaries(NAMES, JOBS, max_size=12), CHOSEN, st.integers(0, 6), st.booleans())
def test_the_sql_means_what_plain_python_means(
    cache: sqlite3.Connection, made: dict[str, Any], chosen: dict[str, Any], limit: int, descending: bool
) -> None:
    """Over any jobs and any filter, the rows, their order, the cut and the total are those of a loop in Python."""
    cache.rollback()  # a listing reads in one transaction
    with transaction(cache):
        cache.execute("DELETE FROM job")
        cache.execute("DELETE FROM job_label")
        rows.write_rows(cache, [_row(name, job) for name, job in made.items()])
    order = filters.parse_sort("-name" if descending else "name")
    job_filter = filters.Filter()
    for name, value in chosen.items():
        if name in ("name", "namespace", "owner"):
            FILTERS[name].apply(job_filter, value, START)
        else:
            setattr(job_filter, name, value)
    page = job_queries.list_jobs(cache, job_filter, order=order, limit=limit, now=1000.0)
    found = [job["job_id"] for job in page.jobs()]
    passing = sorted((name for name, job in made.items() if _passes(name, job, chosen)), reverse=descending)
    first = passing if limit == 0 else passing[:limit]
    active = [name for name in passing if made[name]["status"] not in TERMINAL]
    assert found == [name for name in passing if name in {*first, *active}]
    assert page.total == len(passing)


def _row(job_id: str, job: dict[str, Any]) -> rows.MirroredJob:
    times = {f"{n}_at": (START.fromtimestamp(job[m], START.tzinfo) + timedelta(0)).isoformat() for n, m in _TIMES}
    record = {"job_id": job_id, **times, **{name: job[name] for name in job if name not in ("created", "changed")}}
    made = rows.to_row(key(job_id), job_id, json.dumps(record).encode(), VersionToken("1"), 1)
    assert isinstance(made, rows.MirroredJob)
    return made


_TIMES = (("created", "created"), ("updated", "changed"))
