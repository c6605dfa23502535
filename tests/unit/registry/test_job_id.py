"""The ids of jobs: which ones a new job may have, and which ones a record may have."""

from __future__ import annotations

import pytest

from mopsjobs.errors import UsageError
from mopsjobs.registry.job_id import check_job_id, check_new_job_id


@pytest.mark.parametrize("job_id", ["a", "7", "nightly-1", "job-a1b2c3d4", "A.b_c+d=e-f", "x" * 128])
def test_a_new_id_can_be_typed_without_quotes(job_id: str) -> None:
    """Letters, digits and `._+=-`, beginning with a letter or digit."""
    assert check_new_job_id(job_id) == job_id


@pytest.mark.parametrize(
    "job_id", ["", "-a", ".a", "a b", "a/b", "a\n", "a\x00", "é", "٣", "a*", "$a", "~", "..", "a:b", "x" * 129]
)
def test_any_other_new_id_is_refused_by_name(job_id: str) -> None:
    """The sentence shows it escaped, and says what an id looks like."""
    with pytest.raises(UsageError, match="letters, digits and") as caught:
        check_new_job_id(job_id)
    assert repr(job_id) in str(caught.value)


@pytest.mark.parametrize("job_id", ["a b", "é", "-a", ".a", "...", "a:b", "@latest", "x" * 512])
def test_an_existing_id_may_be_anything_that_fits_into_a_key(job_id: str) -> None:
    """Other programs have given jobs their ids by other rules; those jobs can be shown and changed too."""
    assert check_job_id(job_id) == job_id


@pytest.mark.parametrize(
    "job_id", ["", ".", "..", "a//b", "a/", "/a", "a/../b", "/", "a\n", "a\x1b[31m", "\u202e", "x" * 513]
)
def test_what_no_key_can_hold_is_no_id(job_id: str) -> None:
    """The sentence shows it escaped: nothing in it reaches a terminal."""
    with pytest.raises(UsageError, match="invalid job id") as caught:
        check_job_id(job_id)
    assert str(caught.value).isprintable()
