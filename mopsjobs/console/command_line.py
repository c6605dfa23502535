"""A command line to suggest: quoted for the shell, and never read as a flag."""

from __future__ import annotations

import shlex


def command_line(verb: str, job_id: object, options: str = "") -> str:
    """Return what to type to do that with a job.

    Args:
        verb: the command, with flags in front of the id.
        job_id: the job, by whatever id another program has given it.
        options: flags behind the id.
    """
    words = [f"mops-jobs {verb}", shlex.quote(str(job_id)), options]
    if str(job_id).startswith("-"):
        words = [words[0], options, "--", words[1]]
    return " ".join(word for word in words if word)
