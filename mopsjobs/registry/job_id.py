"""The ids of jobs: which ones a record may have, and which ones a new job may have. Pure.

It is a module of its own because `status` needs it and must start fast: the record costs dataclasses.
"""

from __future__ import annotations

import re

from mopsjobs.errors import UsageError, shorten

MAX_JOB_ID_LENGTH = 128
"""Characters. This leaves room in a key for the names beside the record."""

MAX_FOREIGN_ID_BYTES = 512
"""Of UTF-8, of an id that another program gave: each key with it is one that every store takes."""

_NEW_JOB_ID = rf"[A-Za-z0-9][A-Za-z0-9._+=-]{{0,{MAX_JOB_ID_LENGTH - 1}}}(?:\.\d{{1,6}})?"
"""With the number of a resume: the id of a child is that of the first job and a number."""


def check_new_job_id(job_id: str) -> str:
    """Return `job_id` if a new job may have it.

    This is stricter than `check_job_id`, so that the id needs no quotes in a shell and can be a file name.

    Raises:
        UsageError: if it is empty, longer than 128 characters and the number of a resume, or has other characters than
            letters, digits, `._+=-`.
    """
    if not re.fullmatch(_NEW_JOB_ID, job_id, re.ASCII):
        raise UsageError(
            f"invalid job id {job_id!r}: expected 1 to {MAX_JOB_ID_LENGTH} letters, digits and . _ + = -, "
            "beginning with a letter or digit."
        )
    return job_id


def check_job_id(job_id: str) -> str:
    """Return `job_id` if a record may have it, of mops-jobs or of another program.

    It has 1 to 512 bytes of UTF-8, of characters that print, no backslash, and no part between slashes that is empty,
    `.` or `..`. Ids of mops-jobs have no slash, so no other key of a job is that of a record.

    Raises:
        UsageError: if no key can hold it.
    """
    is_short = job_id.isprintable() and 1 <= len(job_id.encode()) <= MAX_FOREIGN_ID_BYTES
    if not is_short or "\\" in job_id or {"", ".", ".."} & set(job_id.split("/")):
        raise UsageError(
            f"invalid job id {shorten(job_id, 80)!r}: expected at most {MAX_FOREIGN_ID_BYTES} bytes, "
            "without backslash, control characters and empty parts."
        )
    return job_id


def is_job_id(text: str) -> bool:
    """Return whether `check_job_id` takes a text."""
    try:
        check_job_id(text)
    except UsageError:
        return False
    return True
