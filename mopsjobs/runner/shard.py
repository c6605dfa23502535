"""A shard, which a runner works through, and what came of it."""

from __future__ import annotations

from typing import NamedTuple

PATIENCE_SECONDS = 3600.0
"""How long a runner that has done its work waits for a registry that does not answer, before it leaves the rest to
another."""


class Shard(NamedTuple):
    """Which part of a job to work on, and with what."""

    job_id: str
    number: int = 0
    of: int = 1
    workers: int | None = None
    python: str | None = None
    task_timeout: float | None = None
    patience: float = PATIENCE_SECONDS
    scheduler: str | None = None
    """A Dask scheduler, whose workers run the tasks; None: processes of this machine."""
    waits: bool = False
    """Whether a manifest that is missing is waited for: in a pod, it may have stayed with whoever submitted the job."""
    echo: bool = False
    """Whether what the tasks write is also said here, besides the events: a cluster's logs are then the job's."""


class ShardResult(NamedTuple):
    """What came of it. `status` is the record's at the end, None when it could not be told."""

    status: str | None
    completed: int
    failed: int
    is_done: bool
    """Whether nothing is left to a restart: every task of the shard worked on, every output delivered."""
    signal: int | None = None
    """Which signal has stopped it, if one has."""
