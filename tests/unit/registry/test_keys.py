"""The table of keys: what each form takes for its own, whose it is, and that the page of keys has it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import mops_jobs
from mopsjobs.errors import UsageError
from mopsjobs.registry import keys
from mopsjobs.registry.job_id import MAX_FOREIGN_ID_BYTES, check_job_id, check_new_job_id
from mopsjobs.registry.keys import FORMS, MACHINE, RECORD, SHARD, KeyForm, belongs_to, may_carry
from mopsjobs.store.base import check_key
from support.keys import LONGEST, PARTS, key_of, keys_of

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


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.name)
def test_no_key_is_longer_than_every_store_takes(form: KeyForm) -> None:
    """Whatever its parts: the longest id of another program with the longest text of each other part."""
    longest = {**LONGEST, "job": "é" * (MAX_FOREIGN_ID_BYTES // 2)}
    key = form.key(**longest)
    assert check_key(key) == key
    parts = form.parse(key)
    assert parts == {name: longest[name] for name in parts or {}}
    assert all(form.parse(form.key(**longest | {name: longest[name] + longest[name][:1]})) is None for name in parts)


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


# --- The ids of jobs: which ones a new job may have, and which ones a record may have --------------------------------


@pytest.mark.parametrize("job_id", ["a", "7", "nightly-1", "job-a1b2c3d4", "A.b_c+d=e-f", "x" * 128, "x" * 128 + ".2"])
def test_a_new_id_can_be_typed_without_quotes(job_id: str) -> None:
    """Letters, digits and `._+=-`, beginning with a letter or digit. The number of a resume comes on top."""
    assert check_new_job_id(job_id) == job_id


@pytest.mark.parametrize(
    "job_id",
    ["", "-a", ".a", "a b", "a/b", "a\n", "a\x00", "é", "٣", "a*", "$a", "~", "..", "a:b", "x" * 129, "x" * 129 + ".2"],
)
def test_any_other_new_id_is_refused_by_name(job_id: str) -> None:
    """The sentence shows it escaped, and says what an id looks like."""
    with pytest.raises(UsageError, match="letters, digits and") as caught:
        check_new_job_id(job_id)
    assert repr(job_id) in str(caught.value)


@pytest.mark.parametrize("job_id", ["a b", "é", "-a", ".a", "...", "a:b", "@latest", "x" * 512, "é" * 256])
def test_an_existing_id_may_be_anything_that_fits_into_a_key(job_id: str) -> None:
    """Other programs have given jobs their ids by other rules; those jobs can be shown and changed too."""
    assert check_job_id(job_id) == job_id
    assert all(check_key(key) for key in keys_of(job_id).values())


@pytest.mark.parametrize(
    "job_id", ["", ".", "..", "a//b", "a/", "/a", "a/../b", "/", "a\n", "a\x1b[31m", "\u202e", "x" * 513, "é" * 257]
)
def test_what_no_key_can_hold_is_no_id(job_id: str) -> None:
    """The sentence shows it escaped: nothing in it reaches a terminal."""
    with pytest.raises(UsageError, match="invalid job id") as caught:
        check_job_id(job_id)
    assert str(caught.value).isprintable()
