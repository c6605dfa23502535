"""The table of keys: what each form takes for its own, whose it is, and that the page of keys has it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mops_jobs
from mopsjobs.registry import keys
from mopsjobs.registry.keys import FORMS, MACHINE, RECORD, SHARD, KeyForm, belongs_to, may_carry
from support.keys import PARTS, key_of, keys_of

OTHER_JOBS = [
    "job-2", "job", "job-1/x", "x/job-1", "job-1/job-1", "job-1.2", "JOB-1", "job-1 ", "job%2d1", "job-1%2f..%2fjob-2",
]  # fmt: skip
"""Ids of other jobs than `job-1`, those of other programs among them."""

OWNED = [form for form in FORMS if "{job}" in form.pattern]


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_a_key_has_one_form_which_gives_back_its_parts(form: KeyForm) -> None:
    key = key_of(form, "job-1")
    assert [other for other in FORMS if other.parse(key) is not None] == [form]
    parts = form.parse(key)
    assert parts is not None
    assert parts == {name: {**PARTS, "job": "job-1"}[name] for name in parts}
    assert key.startswith(form.prefix)
    assert ("job" in parts) == (form in OWNED)


@pytest.mark.parametrize("form", OWNED, ids=lambda form: form.name)
def test_a_key_that_is_almost_of_a_form_has_none(form: KeyForm) -> None:
    """Or is that of another job: another case, one more segment, a percent-encoded part, an id that no job has."""
    key = key_of(form, "job-1")
    wrong = [
        key.upper(), f"{key}/more", f"{key}\n", f"x/{key}", key.replace("/", "%2f", 1), key.replace("/", "//", 1),
        key.replace("job-1", ".."), key.replace("job-1", "a\\b"), key.replace("job-1", "a/../b"),
        key.replace("job-1", ""),
    ]  # fmt: skip
    for other in wrong:
        parts = form.parse(other)
        assert parts is None or parts["job"] != "job-1", other


@pytest.mark.parametrize("relay", [SHARD, MACHINE])
@pytest.mark.parametrize("other", OTHER_JOBS)
def test_no_relay_carries_a_key_of_another_job(relay: str, other: str) -> None:
    """Of any form. A bundle is of no job: the digest in its name is compared with its bytes."""
    carried = {name for name, key in keys_of(other).items() if may_carry(relay, key, "job-1")}
    assert carried <= {keys.BUNDLE.name}
    assert not any(belongs_to(key, "job-1", FORMS) for key in keys_of(other).values())


def test_a_relay_carries_what_the_table_allows_of_its_own_job() -> None:
    carried = {
        relay: {name for name, key in keys_of("job-1").items() if may_carry(relay, key, "job-1")}
        for relay in (SHARD, MACHINE)
    }
    of_shards = {"output of a task", "events", "ledger", "environment"}
    assert carried == {SHARD: of_shards, MACHINE: {*of_shards, "manifest", "bundle"}}


def test_records_may_be_below_another_prefix() -> None:
    form = RECORD.below("team/jobs")
    assert form.key(job="a") == "team/jobs/a/state.json"
    assert form.parse("team/jobs/a/state.json") == {"job": "a"}
    assert form.parse("jobs/a/state.json") is None


def test_the_page_of_keys_has_this_table() -> None:
    """Each form with its writers, and whether the files of a shard and those of a submission may carry it."""
    page = (Path(mops_jobs.__file__).parent / "docs" / "reference" / "keys.md").read_text("utf-8")
    rows = re.findall(r"^\| ([^|]+) \| `([^|]+)` \| ([^|]+) \| (yes|no) \| (yes|no) \|$", page, re.MULTILINE)
    assert rows == [
        (
            form.name,
            form.pattern,
            form.writers,
            *("yes" if relay in form.relays else "no" for relay in (SHARD, MACHINE)),
        )
        for form in FORMS
    ]
