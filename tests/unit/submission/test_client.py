"""A launch and its record: what another launch sets, and where shards report by files."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any, cast

import pytest

from mopsjobs.bundles.bundle import bundle_key
from mopsjobs.bundles.packing import pack
from mopsjobs.engines.base import Engine, Launch, LaunchResult
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import EngineError, OptionError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import Manifest, Reuse, load_manifest
from mopsjobs.submission.client import launch_again, relaunched_fields, submit_job
from mopsjobs.submission.session import Session
from mopsjobs.submission.shard_drop import ShardDrop
from mopsjobs.utils.times import record_time
from support.cli import START, LineStore
from support.engines import COMPLETE, Cluster
from support.ledgers import BUNDLE
from support.runs import code, place, sets_of, study

LAUNCHED = {"metadata": {"local_workers": "2"}}


def test_a_launch_on_a_cluster_is_none_of_a_job_that_never_reported() -> None:
    """A shard need not report before it runs."""
    registry = JobRegistry(InMemoryVersionedStore())
    state = registry.register_job("job", engine="slurm")
    assert relaunched_fields(LAUNCHED, state, START) == {"metadata": {"local_workers": "2"}}


BEGAN = START + timedelta(hours=2)
REPORTED = BEGAN + timedelta(seconds=3)


class Launching:
    """An engine that notes the record as it is during a launch, after which the line is up."""

    name = "slurm"

    def __init__(self, line: LineStore, registry: JobRegistry) -> None:
        self._line = line
        self._registry = registry
        self.is_reporting, self.refuses = True, False
        """Whether the runner reports before the launch returns, and whether there is no launch."""
        self.seen: tuple[object, object] = (None, None)

    def launch(self, launch: Launch) -> LaunchResult:
        self._line.down = False
        self.seen = seen(self._registry)
        if self.refuses:
            raise EngineError(f"{launch.job_id} is refused.")
        if self.is_reporting:
            self._registry.update_fields("job", heartbeat_at=record_time(REPORTED))
        return LaunchResult("squeue", metadata={"slurm_job_id": launch.job_id})


def seen(registry: JobRegistry) -> tuple[object, object]:
    """Return the mark as suspect, and the heartbeat."""
    state = registry.require_job("job")
    return state.metadata["suspect"], state.heartbeat_at


@pytest.mark.parametrize("is_down", [False, True])
def test_a_job_that_is_launched_again_is_not_silent_meanwhile(tmp_path: Path, is_down: bool) -> None:
    """A launch may take seconds. What a runner reports meanwhile stays. After an outage, the launch is noted later.

    The job stays suspect until its engine has taken the launch.
    """
    line = LineStore(InMemoryVersionedStore())
    registry = JobRegistry(line)
    registry.register_job("job", metadata={"suspect": {"reason": "pod_gone"}})
    silent = registry.update_status("job", "running", heartbeat_at=record_time(START))
    engine = Launching(line, registry)
    line.down, engine.is_reporting = is_down, not is_down
    env = {"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    session = Session(registry_url="memory:", open_registry=lambda: registry, env=env, now=lambda: BEGAN)
    launch = Launch(job_id="job", registry_url="memory:")
    assert launch_again(silent, cast("Engine", engine), launch, None, session) == ()
    assert engine.seen == ({"reason": "pod_gone"}, record_time(START if is_down else BEGAN))
    assert seen(registry) == (None, record_time(BEGAN if is_down else REPORTED))
    assert registry.require_job("job").metadata["slurm_job_id"] == "job"
    state = registry.update_fields("job", metadata={"suspect": {"reason": "pod_gone"}})
    engine.refuses = True
    with pytest.raises(EngineError):
        launch_again(state, cast("Engine", engine), launch, None, session)
    assert seen(registry)[0] == {"reason": "pod_gone"}, "a refused launch leaves the job suspect"


def _session(registry: JobRegistry, directory: Path) -> Session:
    env = {"XDG_STATE_HOME": str(directory)}
    return Session(registry_url="memory:", open_registry=lambda: registry, env=env)


@pytest.mark.parametrize(
    ("more", "reused", "needs"),
    [
        ({"reduce": "model:mean"}, (), "a study with a reduce function"),
        ({}, (Reuse.of("other", BUNDLE, [0]),), "--extend"),
    ],
)
def test_a_drop_of_files_is_refused_where_shards_need_other_outputs(
    tmp_path: Path, more: dict[str, Any], reused: tuple[Reuse, ...], needs: str
) -> None:
    """Before anything is stored: shards see what they have written themselves, and their code."""
    registry = JobRegistry(InMemoryVersionedStore())
    session = _session(registry, tmp_path)
    manifest = Manifest(job_id="job", study=study(sets_of(2), **more), bundle=BUNDLE, reused=reused)
    launch = Launch(job_id="job", registry_url="memory:", options={"file_drop": "yes"})
    with pytest.raises(OptionError, match=f"file_drop cannot be combined with {needs}"):
        submit_job(Cluster(COMPLETE), session, manifest, launch)
    assert list(registry.store.list_keys()) == []


class Unreported(Cluster):
    """A Slurm that starts no shard."""

    name = "slurm"

    def __init__(self) -> None:
        super().__init__(COMPLETE)
        self.launched: list[Launch] = []

    def launch(self, launch: Launch) -> LaunchResult:
        self.launched.append(launch)
        return LaunchResult("squeue")


def test_without_the_registry_the_drop_is_filled_with_what_is_kept_here(tmp_path: Path) -> None:
    """Shards in a drop register no job, so the warning says who does."""
    line = LineStore(InMemoryVersionedStore())
    line.down = True
    session = _session(JobRegistry(line), tmp_path)
    directory = JobDir.for_job("job", session.env)
    directory.path.mkdir(parents=True)
    code(tmp_path / "code")
    with pack(tmp_path / "code") as packed:
        manifest = Manifest(job_id="job", study=study(sets_of(2)), bundle=packed.digest, engine="slurm")
        launch = Launch(job_id="job", registry_url="memory:", options={"file_drop": "yes"})
        outage, advice = submit_job(Unreported(), session, manifest, launch, packed).warnings
    assert outage.endswith("The job is launched anyway.")
    assert advice == (
        "Its shards report by files, and do not register it. When the registry answers, run here: mops-jobs resume job"
    )
    drop = ShardDrop(directory.drop, 0)
    assert load_manifest(drop, "job") == manifest
    assert drop.get(bundle_key(packed.digest)) is not None


@pytest.mark.parametrize(
    ("more", "is_begun", "problem"),
    [
        ({"reduce": "model:mean"}, False, "cannot be combined with a study with a reduce function"),
        ({}, True, "cannot begin with this launch: outputs of the job are in the registry"),
        ({}, False, None),
    ],
)
def test_a_later_launch_has_a_drop_if_shards_need_no_other_outputs(
    tmp_path: Path, more: dict[str, Any], is_begun: bool, problem: str | None
) -> None:
    """A refused launch leaves the record as it was. A job that had a drop before may have outputs."""
    store = InMemoryVersionedStore()
    registry, engine = JobRegistry(store), Unreported()
    manifest = place(store, "job", study(sets_of(2), outputs=["out"], **more), code(tmp_path / "code"))
    state = registry.register_job("job", engine="slurm", tasks_total=2)
    if is_begun:
        _, task = next(iter(manifest.tasks()))
        store.create_if_absent(f"results/job/{task.param_id}/{task.seed}/out", b"x")
    env = {"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    session = Session(registry_url="memory:", open_registry=lambda: registry, env=env)
    launch = Launch(job_id="job", registry_url="memory:", options={"file_drop": "yes"})
    if problem is not None:
        with pytest.raises(OptionError, match=f"^file_drop {problem}"):
            launch_again(state, engine, launch, None, session)
        assert (engine.launched, registry.require_job("job")) == ([], state)
        return
    assert launch_again(state, engine, launch, None, session) == ()
    state = registry.require_job("job")
    _, task = next(iter(manifest.tasks()))
    store.create_if_absent(f"results/job/{task.param_id}/{task.seed}/out", b"x")
    assert launch_again(state, engine, launch, None, session) == ()
    assert engine.launched == [launch] * 2
