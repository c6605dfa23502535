"""Decide which choices of a record may be used: those that the user or a launch from this machine has named too.

A writer of records may put any context, image or interpreter into one. Such a value is a choice, written as
`KIND:VALUE`. See docs/decisions/0031-records-do-not-choose.md.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import shlex
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import disk_errors
from mopsjobs.engines.model_env import active_python
from mopsjobs.errors import EXIT_REFUSED, EngineError, UsageError
from mopsjobs.utils.files import make_directory, replace_file
from mopsjobs.utils.user_dirs import trusted_owners

KINDS = {
    "context": "a context of the kubeconfig",
    "namespace": "a namespace of the cluster",
    "image": "the image of pods",
    "secret": "a Secret whose keys become the environment of pods",
    "service-account": "the service account of pods",
    "queue": "the queue of Kueue that starts a Job",
    "priority-class": "the priority class of pods",
    "node-selector": "the labels of the nodes that pods run on",
    "toleration": "the taints of nodes that pods tolerate",
    "partition": "a partition of Slurm",
    "account": "the account of Slurm that a job is charged to",
    "qos": "a quality of service of Slurm",
    "setup": "a line that the shell of each shard runs",
    "sbatch-arg": "further flags of sbatch",
    "engine": "where a job is resumed: kubernetes, dask or slurm",
    "python": "the interpreter of a model on this machine",
    "dask": "the address of a Dask scheduler",
}
"""The kinds of choices."""

MAX_BYTES = 65536


class NotTrustedError(EngineError):
    """Neither the user nor a launch from this machine has named this choice of a record. It was not used."""

    exit_code = EXIT_REFUSED


class Trust:
    """The choices that the user trusts."""

    def __init__(self, named: Iterable[str] = (), patterns: Iterable[str] = ()) -> None:
        """Collect the choices.

        Args:
            named: exact choices.
            patterns: choices of the user's configuration, in which `*` stands for any text.
        """
        self._named = frozenset(named)
        self._patterns = tuple(patterns)

    def allows(self, choice: str) -> bool:
        """Return True if the user trusts a choice."""
        # Kinds have no `*`, so a pattern of one kind never matches another.
        return choice in self._named or any(
            choice == pattern or fnmatch.fnmatchcase(choice, pattern) for pattern in self._patterns
        )

    def plus(self, choices: Iterable[str]) -> Trust:
        """Return this trust with more choices."""
        return Trust((*self._named, *choices), self._patterns)


def check_choice(text: str) -> str:
    """Return the choice, unchanged.

    Raises:
        UsageError: if it is not KIND:VALUE.
    """
    kind, colon, value = text.partition(":")
    if kind not in KINDS or not colon or not value or not text.isprintable():
        kinds = ", ".join(KINDS)
        raise UsageError(
            f"invalid choice '{text[:100]}': expected KIND:VALUE, like context:prod.",
            hint=f"Use one of the kinds {kinds}.",
        )
    return text


def choices_of(options: Mapping[str, object]) -> list[str]:
    """Return the choices among the options of a launch: `image`, `service_account`, `scheduler`, ..."""
    kinds = {name.replace("_", "-") if name != "scheduler" else "dask": value for name, value in options.items()}
    return [f"{kind}:{value}" for kind, value in kinds.items() if kind in KINDS and value]


def flags_for(choices: Iterable[str]) -> str:
    """Return the flags that trust these choices."""
    return " ".join(f"--trust {shlex.quote(choice)}" for choice in choices)


def not_trusted_error(jobs_by_choice: Mapping[str, list[str]], outcome: str) -> NotTrustedError:
    """Return the error for choices that the user has not named.

    Args:
        jobs_by_choice: the choices, each with the jobs whose records name it.
        outcome: what follows: "nothing was launched".
    """
    choices = list(jobs_by_choice)
    listed = ", ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
    return NotTrustedError(
        f"Only the record of {first_jobs(jobs_by_choice)} names {', '.join(choices)}; {outcome}.",
        hint=f"If you trust {'it' if len(choices) == 1 else 'them'}, put trusted = [{listed}] into"
        f" ~/.config/mops-jobs/config.toml, or for this command add: {flags_for(choices)}",
    )


def first_jobs(jobs_by_choice: Mapping[str, list[str]]) -> str:
    """Return the ids of the first jobs that make these choices, and the number of the others."""
    jobs = list(dict.fromkeys(job for names in jobs_by_choice.values() for job in names))
    return ", ".join(jobs[:3]) + (f" and {len(jobs) - 3} more" if len(jobs) > 3 else "")


def remember_launch(directory: JobDir, engine: str, options: Mapping[str, object]) -> None:
    """Save the choices of a launch, for later commands on the job. If the disk is full, these ask again."""
    with contextlib.suppress(EngineError):
        _write_texts(directory, directory.own_launch, [f"engine:{engine}", *choices_of(options)])


def choices_of_last_launch(directory: JobDir) -> Collection[str]:
    """Return the choices of the last launch of a job from this machine by this user; none if there was none."""
    return frozenset(_read_texts(directory.own_launch))


def python_of_launch(job_id: str, env: Mapping[str, str]) -> str:
    """Return the interpreter of a launch from this machine, else that of the active environment. No record chooses."""
    choices = choices_of_last_launch(JobDir.for_job(job_id, env))
    named = next((choice.removeprefix("python:") for choice in choices if choice.startswith("python:")), None)
    return named or active_python(env) or sys.executable


def remember_names(directory: JobDir, names: tuple[str, ...] | None) -> None:
    """Note the rules of a job that is about to be launched, in place of earlier ones. None leaves these.

    The record does not have them: it must not choose what another machine runs, or where that sends something. See
    docs/decisions/0073-notifications.md.

    Raises:
        EngineError: if this machine's disk cannot be written.
    """
    if names or (names is not None and directory.notify_names.exists()):
        _write_texts(directory, directory.notify_names, names)


def remembered_names(directory: JobDir) -> tuple[str, ...]:
    """Return the rules that this user has named for a job on this machine; none if there are none."""
    return _read_texts(directory.notify_names)


def _write_texts(directory: JobDir, path: Path, texts: Sequence[str]) -> None:
    with disk_errors(directory):
        make_directory(directory.path)
        replace_file(str(path), json.dumps(texts).encode())


def _read_texts(path: Path) -> tuple[str, ...]:
    """Return the texts in a file that this user has written; none if the file does not exist."""
    with contextlib.suppress(OSError, ValueError, RecursionError), open(path, "rb") as file:
        if os.fstat(file.fileno()).st_uid in trusted_owners():  # as root with the home of a user
            texts = json.loads(file.read(MAX_BYTES))
            return tuple(text for text in texts if isinstance(text, str)) if isinstance(texts, list) else ()
    return ()
