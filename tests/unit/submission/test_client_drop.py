"""What is refused before a launch whose shards report by files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mopsjobs.engines.base import Launch
from mopsjobs.engines.job_dir import JobDir
from mopsjobs.errors import OptionError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.memory import InMemoryVersionedStore
from mopsjobs.studies.reuse import Reuse
from mopsjobs.submission.client import JobSubmissionClient, Submission
from support.engines import COMPLETE, Cluster
from support.ledgers import BUNDLE
from support.runs import sets_of, study


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
