"""Deliver what shards on Slurm kept while the registry did not answer, and no runner is left to deliver.

A runner that Slurm ends at its time limit keeps its finished outputs in the outbox of its shard, and one that is killed
leaves its journal. The next launch of the job would read both; a child job has other directories. `resume`, `reconcile`
and the commands that follow a job deliver them.
"""

from __future__ import annotations

import contextlib

from mopsjobs.engines import open_engine
from mopsjobs.engines.base import EngineState, engine_of
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import StoreError
from mopsjobs.ledger.writer import Ledger
from mopsjobs.registry.job_state import JobState
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.studies.outputs import find_complete_tasks
from mopsjobs.submission.offline import deliver_offline
from mopsjobs.submission.session import Session

LEDGER_SECONDS = 30.0
"""How long the journal of a shard may take. What the store does not take by then goes into the outbox."""


def deliver_shards(state: JobState, session: Session, engine: EngineState | None = None) -> JobState:
    """Move what the shards of a job on Slurm kept into the store, unless its job array is active or not known here.

    Args:
        state: the record of the job.
        session: the registry, the environment and the messages.
        engine: what Slurm says about the job; None: Slurm is asked, if shards kept something.

    Returns:
        The record after that.

    Raises:
        EngineError: if Slurm does not answer.
        StoreError: if the store does not answer or refuses; see `deliver_offline`.
    """
    if engine_of(state.fields()) != "slurm":
        return state
    kept = [
        (number, directory)
        for number, directory in JobDir.for_job(state.job_id, session.env).shard_directories()
        if directory.outbox.exists() or _has_journal(directory, number)
    ]
    if not kept:
        return state
    engine = engine or open_engine("slurm", session.env).state(state.fields())
    # SQLite cannot share a file among nodes, so not even a look at the outbox of a shard at work is safe.
    if engine.phase in ("pending", "running", "unknown"):
        return state

    def warn(key: str, reason: StoreError) -> None:
        session.warn(f"{key} cannot be delivered, and is removed: {reason}")

    delivered = [
        deliver_offline(directory, state.job_id, session.store, session.registry, warn) for _, directory in kept
    ]
    delivered += [_deliver_journal(directory, number, state.job_id, session) for number, directory in kept]
    if any(delivered):
        session.note(f"{state.job_id}: delivered what its shards kept while the registry did not answer")
    return session.registry.get_job(state.job_id) or state


def _has_journal(directory: JobDir, shard: int) -> bool:
    return next(directory.ledger(shard).glob("*.jsonl"), None) is not None


def _deliver_journal(directory: JobDir, shard: int, job_id: str, session: Session) -> bool:
    """Send the attempts that killed runs of a shard left, as its next run would. Return False if there are none."""
    if not _has_journal(directory, shard):
        return False
    manifest = load_manifest(session.store, job_id)
    complete = find_complete_tasks(session.store, manifest).complete
    with contextlib.closing(SQLiteVersionedStore(directory.outbox)) as outbox:
        ledger = Ledger(session.store, outbox, job_id, shard, directory.ledger(shard))
        ledger.send_left(lambda task: any(complete[place] for place in manifest.positions([task])))
        ledger.close(LEDGER_SECONDS)
    return True
