"""A cluster whose shards report by files: submissions, shards and deliveries in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mopsjobs.app.jobs.reconcile import reconcile
from mopsjobs.engines.base import EngineState
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import StoreUnavailableError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.registry.job_state import JobState
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import Manifest
from mopsjobs.studies.packed_store import PackedStore
from mopsjobs.submission.session import Session
from mopsjobs.submission.shard_drop import ShardDrop, deliver_drop, fill_drop
from support.engines import Cluster, state_of
from support.runs import code, place, study, work

SHARDS = 2


class StopsAfter(InMemoryVersionedStore):
    """A store that stops answering before its n-th write."""

    def __init__(self) -> None:
        super().__init__()
        self.left: float = float("inf")

    def _count(self) -> None:
        if self.left <= 0:
            raise StoreUnavailableError("Cannot reach the registry: as asked.")
        self.left -= 1

    def put(self, *args: Any) -> Any:
        self._count()
        return super().put(*args)

    def create_if_absent(self, key: str, value: bytes) -> Any:
        self._count()
        return super().create_if_absent(key, value)


class Site:
    """A cluster whose nodes share a directory with the machine that has the registry."""

    def __init__(self, directory: Path, *, packs: bool = False) -> None:
        self.store = StopsAfter()
        self.registry = JobRegistry(PackedStore(self.store) if packs else self.store, sleep=lambda _: None)
        self.warnings: list[str] = []
        self.session = Session(
            registry_url="memory:",
            open_registry=lambda: self.registry,
            env={"XDG_STATE_HOME": str(directory / "state"), "HOME": str(directory)},
            warn=self.warnings.append,
        )
        self.directory = JobDir.for_job("job", self.session.env)
        self.calls = code(directory / "code") / "calls"
        self.manifest: Manifest

    def submit(self, sets: list[dict[str, Any]], **options: str) -> None:
        """Submit a job of two shards with a drop."""
        for one in sets:
            one["calls"] = str(self.calls)
        self.manifest = place(self.store, "job", study(sets), self.calls.parent)
        metadata = {"slurm_file_drop": "yes", "slurm_shards": str(SHARDS)}
        metadata |= {f"slurm_{name}": text for name, text in options.items()}
        self.registry.register_job("job", engine="slurm", tasks_total=len(sets), metadata=metadata)
        self.registry.update_status("job", "scheduled")
        fill_drop(self.directory, self.manifest, self.store)

    def run(self, sets: list[dict[str, Any]], *shards: int) -> None:
        """Submit a job, and run these of its shards."""
        self.submit(sets)
        for shard in shards:
            self.work(shard)

    def work(self, shard: int, **more: Any) -> list[str]:
        """Run a shard as on its node: it has its own part of the drop alone. Return what it said."""
        drop = ShardDrop(self.directory.drop, shard)
        directory = self.directory.path / f"shards/{shard}/mops-jobs/jobs/job"
        how = {"number": shard, "shards": SHARDS, "drop": self.directory.drop, **more}
        return work(drop, JobRegistry(drop), directory, **how)[1]

    def deliver(self, *, is_over: bool = False) -> JobState:
        return deliver_drop(
            state_of(self.registry, "job"),
            self.session,
            lambda key, reason: self.warnings.append(f"{key}: {reason}"),
            is_over=is_over,
        )

    def reconcile(self, says: EngineState) -> JobState:
        (done,) = reconcile(self.session, {"slurm": Cluster(says)}, [state_of(self.registry, "job")])
        assert done.problem is None
        return state_of(self.registry, "job")


def counts(state: JobState) -> tuple[str, int, int]:
    """Return the status of a record, and its tasks that are completed and failed."""
    return str(state.status), state.tasks_completed, state.tasks_failed
