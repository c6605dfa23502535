"""Deliver what runners left for others to deliver: shards on Slurm, and a runner of this machine that was killed.

Shards that do not reach the registry report by files, at any time; see `shard_drop`. Others leave something only if the
registry did not answer at their end. A runner that Slurm ends at its time limit keeps its finished outputs in the
outbox of its shard. A runner that is killed leaves its journal. The next launch of the job would read both; a child job
has other directories. `resume`, `validate`, `reconcile` and the commands that follow a job deliver all that.
"""

from __future__ import annotations

import contextlib

from mopsjobs.engines import open_engine
from mopsjobs.engines.base import EngineState, ShardEnd, engine_of
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.ledger.writer import Ledger
from mopsjobs.registry.job_state import JobState
from mopsjobs.registry.keys import SHARD
from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.studies.outputs import find_complete_tasks
from mopsjobs.submission.infer_end import ended_with
from mopsjobs.submission.offline import deliver, deliver_offline
from mopsjobs.submission.session import Session
from mopsjobs.submission.shard_drop import OnRefused, deliver_drop, find_drop

LEDGER_SECONDS = 30.0
"""How long the journal of a shard may take. What the store does not take by then goes into the outbox."""


def deliver_shards(state: JobState, session: Session, engine: EngineState | None = None) -> JobState:
    """Move what the shards of a job on Slurm left into the store.

    What they report by files is delivered at any time. What they kept while the registry did not answer waits until
    the job array has ended, and is known to have.

    Args:
        state: the record of the job.
        session: the registry, the environment and the messages.
        engine: what Slurm says about the job; None: Slurm is asked, if shards may have left something.

    Returns:
        The record after that.

    Raises:
        EngineError: if Slurm does not answer, or if the files are not here; see `find_drop`.
        StoreError: if the store does not answer or refuses; see `deliver`.
    """
    if engine_of(state.fields()) != "slurm":
        return state
    drop = find_drop(state, session)
    unsent = [
        (number, directory)
        for number, directory in JobDir.for_job(state.job_id, session.env).shard_directories()
        if directory.outbox.exists() or _has_journal(directory, number)
    ]
    if drop is None and not unsent:
        return state
    engine = engine or open_engine("slurm", session.env).state(state.fields())
    has_stopped = not engine.may_be_at_work
    removes = _warner(session, "cannot be delivered, and is removed")
    if drop is not None:
        is_over = has_stopped and state.is_terminal
        warn = removes if is_over else _warner(session, "cannot be delivered")
        state = deliver_drop(state, session, warn, is_over=is_over)
    # SQLite cannot share a file among nodes, so not even a look at the outbox of a shard at work is safe.
    if not (unsent and has_stopped):
        return state
    deliveries = [
        directory.outbox.exists() and _deliver_outbox(directory, state.job_id, session, removes)
        for _, directory in unsent
    ]
    ends = {end.shard: end for end in engine.lost}
    deliveries += [
        _deliver_journal(directory, number, state.job_id, session, ends.get(number)) for number, directory in unsent
    ]
    if any(deliveries):
        session.note(f"{state.job_id}: delivered what its shards kept")
    return session.registry.get_job(state.job_id) or state


def deliver_kept(job_id: str, directory: JobDir, session: Session) -> None:
    """Move what a runner of this machine left there into the store. It has ended.

    Raises:
        StoreError: if the store does not answer or refuses; see `deliver_offline`.
    """
    removes = _warner(session, "cannot be delivered, and is removed")
    is_delivered = deliver_offline(directory, job_id, session.store, session.registry, removes)
    for number in directory.ledger_numbers():
        is_delivered |= _deliver_journal(directory, number, job_id, session)
    if is_delivered:
        session.note(f"{job_id}: delivered what its runner kept on this machine")


def _warner(session: Session, what: str) -> OnRefused:
    return lambda key, reason: session.warn(f"{key} {what}: {reason}")


def _has_journal(directory: JobDir, shard: int) -> bool:
    return next(directory.ledger(shard).glob("*.jsonl"), None) is not None


def _deliver_outbox(directory: JobDir, job_id: str, session: Session, on_refused: OnRefused) -> bool:
    """Move the outbox of a shard into the store. Return False if it is empty."""
    with contextlib.closing(SQLiteVersionedStore(directory.outbox)) as outbox:
        is_empty = next(iter(outbox.list_keys()), None) is None
        deliver(outbox, session.store, job_id, on_refused, relay=SHARD)
    return not is_empty


def _deliver_journal(directory: JobDir, shard: int, job_id: str, session: Session, end: ShardEnd | None = None) -> bool:
    """Send the attempts that killed runs of a shard left, as its next run would. Return False if there are none.

    Those that it had in hand have the end of the shard as their error, if the engine knows it.
    """
    if not _has_journal(directory, shard):
        return False
    manifest = load_manifest(session.store, job_id)
    complete = find_complete_tasks(session.store, manifest).complete
    with contextlib.closing(SQLiteVersionedStore(directory.outbox)) as outbox:
        ledger = Ledger(session.store, outbox, job_id, shard, directory.ledger(shard))
        ledger.send_left(
            lambda task: any(complete[place] for place in manifest.positions([task])),
            lambda attempt: attempt if end is None else ended_with(attempt, end),
        )
        ledger.close(LEDGER_SECONDS)
    return True
