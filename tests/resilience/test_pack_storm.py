"""A storm over a job with packs. That on all engines is `./build.sh reliability --only packs`."""

from __future__ import annotations

from pathlib import Path

import pytest

from reliability import packs
from reliability.storm.proxy import Plan, faulty
from reliability.trial import Trial
from support.servers import Azurite

QUICK = 0.1


@pytest.mark.azurite
@pytest.mark.long
def test_pods_that_die_in_an_outage_leave_each_task_once(tmp_path: Path, azurite: Azurite) -> None:
    """On the stand-in for a cluster, with a second runner of a shard: the same bytes as without packs, in all views."""
    with faulty(azurite.port, Plan(0.0)) as line:
        figures = {one.what: one.count for one in packs.over(Trial(tmp_path, 1, QUICK), "Kubernetes", azurite, line)}
    assert figures["outputs, each once, and results byte for byte as without packs"] == 120
