"""Command lines to suggest: quoted for the shell; an id is never read as a flag."""

from __future__ import annotations

import shlex


def command_line(verb: str, job_id: object, options: str = "") -> str:
    """Return the command line of a mops-jobs command on a job.

    Args:
        verb: the command, with flags in front of the id.
        job_id: the job; another program may have given it any id.
        options: flags behind the id.
    """
    words = [f"mops-jobs {verb}", shlex.quote(str(job_id)), options]
    if str(job_id).startswith("-"):
        words = [words[0], options, "--", words[1]]
    return " ".join(word for word in words if word)
