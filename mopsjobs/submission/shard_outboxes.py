"""Deliver what shards on Slurm kept while the registry did not answer, and no runner is left to deliver.

A runner that Slurm ends at its time limit keeps its finished outputs in the outbox of its shard. The next launch of the
job would read it; a child job has other directories.
"""

from __future__ import annotations

from mopsjobs.engines import open_engine
from mopsjobs.engines.base import engine_of
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import StoreError
from mopsjobs.registry.job_state import JobState
from mopsjobs.submission.offline import deliver_offline
from mopsjobs.submission.session import Session


def deliver_shards(state: JobState, session: Session) -> None:
    """Move what the shards of a job on Slurm kept into the store, unless its job array is active or not known here.

    Args:
        state: the record of the job.
        session: the registry, the environment and the messages.

    Raises:
        EngineError: if Slurm does not answer.
        StoreError: if the store does not answer or refuses; see `deliver_offline`.
    """

    def warn(key: str, reason: StoreError) -> None:
        session.warn(f"{key} cannot be delivered, and is removed: {reason}")

    if engine_of(state.fields()) != "slurm":
        return
    kept = [one for one in JobDir.for_job(state.job_id, session.env).shard_directories() if one.outbox.exists()]
    # SQLite cannot share a file among nodes, so not even a look at the outbox of a shard at work is safe.
    if not kept or open_engine("slurm", session.env).state(state.fields()).phase in ("pending", "running", "unknown"):
        return
    delivered = [deliver_offline(one, state.job_id, session.store, session.registry, warn) for one in kept]
    if any(delivered):
        session.note(f"{state.job_id}: delivered what its shards kept while the registry did not answer")
