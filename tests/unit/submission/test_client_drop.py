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
from mopsjobs.studies.manifest import load_manifest
from mopsjobs.studies.reuse import Reuse
from mopsjobs.submission.client import JobSubmissionClient, Submission
from mopsjobs.submission.shard_drop import ShardDrop
from support.cli import LineStore
from support.engines import COMPLETE, Cluster
from support.ledgers import BUNDLE
from support.runs import code, sets_of, study


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
    client = JobSubmissionClient(registry.store, registry, Cluster(COMPLETE), directory_of=lambda _: JobDir(tmp_path))
    submission = Submission(job_id="job", study=study(sets_of(2), **more), bundle=BUNDLE, reused=reused)
    launch = Launch(job_id="job", registry_url="memory:", options={"file_drop": "yes"})
    with pytest.raises(OptionError, match=f"file_drop does not go with {needs}"):
        client.submit(submission, launch)
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
    registry, directory = JobRegistry(line), JobDir(tmp_path / "job")
    directory.path.mkdir()
    code(tmp_path / "code")
    client = JobSubmissionClient(line, registry, Launching(), directory_of=lambda _: directory)
    with pack(tmp_path / "code") as packed:
        submission = Submission(job_id="job", study=study(sets_of(2)), bundle=packed.digest, packed=packed)
        launch = Launch(job_id="job", registry_url="memory:", options={"file_drop": "yes"})
        outage, advice = client.submit(submission, launch).warnings
    assert outage.endswith("The job is launched anyway.")
    assert advice == (
        "Its shards report by files, and do not register it. When the registry answers, run here: mops-jobs resume job"
    )
    drop = ShardDrop(directory.drop, 0)
    assert load_manifest(drop, "job") == submission.manifest("slurm")
    assert drop.get(bundle_key(packed.digest)) is not None
