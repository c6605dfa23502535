"""A launch whose shards report by files: what is refused before it, and where its code comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mopsjobs.bundles.bundle import bundle_key
from mopsjobs.bundles.packing import pack
from mopsjobs.engines.base import Launch, LaunchResult
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import OptionError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.manifest import Manifest, Reuse, load_manifest
from mopsjobs.submission.client import JobSubmissionClient, launch_again
from mopsjobs.submission.session import Session
from mopsjobs.submission.shard_drop import ShardDrop
from support.cli import LineStore
from support.engines import COMPLETE, Cluster
from support.ledgers import BUNDLE
from support.runs import code, place, sets_of, study


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
    client = JobSubmissionClient(Cluster(COMPLETE), _session(registry, tmp_path))
    manifest = Manifest(job_id="job", study=study(sets_of(2), **more), bundle=BUNDLE, reused=reused)
    launch = Launch(job_id="job", registry_url="memory:", options={"file_drop": "yes"})
    with pytest.raises(OptionError, match=f"file_drop cannot be combined with {needs}"):
        client.submit(manifest, launch)
    assert list(registry.store.list_keys()) == []


class Launching(Cluster):
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
    client = JobSubmissionClient(Launching(), session)
    with pack(tmp_path / "code") as packed:
        manifest = Manifest(job_id="job", study=study(sets_of(2)), bundle=packed.digest, engine="slurm")
        launch = Launch(job_id="job", registry_url="memory:", options={"file_drop": "yes"})
        outage, advice = client.submit(manifest, launch, packed).warnings
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
    registry, engine = JobRegistry(store), Launching()
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
