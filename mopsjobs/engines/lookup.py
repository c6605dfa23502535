"""Asking the engines about a job while its record cannot be read. Within a time that the asker sets, whatever hangs."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Mapping
from typing import NamedTuple

from mopsjobs.engines import open_engine
from mopsjobs.engines.base import EngineState
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.engines.local import runner_pid
from mopsjobs.errors import MopsJobsError


class EngineAnswer(NamedTuple):
    """What an engine says of a job, and what to type to see or stop it without mops-jobs."""

    engine: str
    state: EngineState
    look: str
    stop: str | None
    """What to type to stop it so; None where that is not known."""


def find_in_engines(job_id: str, env: Mapping[str, str], seconds: float) -> tuple[EngineAnswer | None, str]:
    """What an engine says of a job of which nothing but the id is known: this machine's first, then the cluster.

    Args:
        job_id: the job.
        env: where configuration is found.
        seconds: how long the cluster may take; a name that does not resolve has no time limit of its own.

    Returns:
        What an engine says, None when none knows the job; and why not, in a sentence.
    """
    job: dict[str, object] = {"job_id": job_id}
    here = open_engine("local", env).state(job)
    if here.reason != "NotHere":
        pid = runner_pid(job_id, env)
        look = f"tail -f {shlex.quote(str(JobDir.of(job_id, env).log))}"
        return EngineAnswer("local", here, look, None if pid is None else f"kill {pid}"), ""
    answers: list[tuple[EngineAnswer | None, str]] = []
    # A daemon: the program may end while it still hangs.
    thread = threading.Thread(target=lambda: answers.append(_cluster(job, env)), daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else (None, "The cluster does not answer either.")


def _cluster(job: Mapping[str, object], env: Mapping[str, str]) -> tuple[EngineAnswer | None, str]:
    try:
        from mopsjobs.engines.kubernetes.engine import kubectl_for

        state = open_engine("kubernetes", env).state(job)
    except (MopsJobsError, ImportError) as error:
        return None, f"Nor can the cluster be asked: {error}"
    if state.phase == "gone":
        return None, f"Nor does the cluster know it: {state.detail}."
    return EngineAnswer("kubernetes", state, kubectl_for("get", job, env), kubectl_for("delete", job, env)), ""
