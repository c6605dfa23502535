"""Command lines to suggest: for the registry that the user named by a flag, quoted for the shell.

An id is never read as a flag.
"""

from __future__ import annotations

_registry_flags = ""
"""The flags of this run that name its registry, for the shell. One process has one run."""


def repeat_registry(*, registry: str | None, env: str | None) -> None:
    """Repeat `--registry` and `--env` in each suggested command: without them, it would ask another registry.

    Args:
        registry: the URL that the user gave by the flag; None without the flag.
        env: the environment of ModelOps that the user gave by the flag; None without the flag.
    """
    global _registry_flags  # noqa: PLW0603 - hints of any layer need it, also of errors, which know no run
    flags = {"--registry": registry, "-e": env}
    _registry_flags = " ".join(f"{flag} {_quote(value)}" for flag, value in flags.items() if value is not None)


def command_line(verb: str, job_id: object = None, options: str = "") -> str:
    """Return the command line of a mops-jobs command.

    Args:
        verb: the command, with flags in front of the id.
        job_id: the job; another program may have given it any id. None for a command without a job.
        options: flags behind the id.
    """
    words = [f"mops-jobs {verb}", _registry_flags]
    if job_id is None:
        words += [options]
    elif str(job_id).startswith("-"):
        words += [options, "--", _quote(job_id)]
    else:
        words += [_quote(job_id), options]
    return " ".join(word for word in words if word)


def _quote(word: object) -> str:
    import shlex  # here: a listing needs none

    return shlex.quote(str(word))
