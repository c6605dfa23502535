"""Fixtures that several files of this folder use."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mopsjobs.registry.status import JobStatus
from support.cli import Cli, Clock, Remote, add, foreign, key
from support.desk import Desk
from support.events import Writer
from support.kubernetes import Api, kubeconfig
from support.runs import code, sets_of, study

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def desk(cli: Cli, tmp_path: Path) -> Iterator[Desk]:
    """Yield a directory with a model, and the command in it."""
    with closing(Desk(cli, tmp_path / "desk")) as made:
        yield made


@pytest.fixture
def cluster(cli: Cli, remote: Remote, api: Api, tmp_path: Path) -> Api:
    """Return a cluster, a registry across a network, and a study in the current directory."""
    cli.env["KUBECONFIG"] = str(kubeconfig(tmp_path, api.url))
    code(Path.cwd())
    Path("study.json").write_text(json.dumps(study(sets_of(3)).to_dict()))
    return api


@pytest.fixture
def write(remote: Remote, clock: Clock) -> Writer:
    """Return a function that writes chunks of the job `job` into the registry across the network."""
    return Writer(remote.store.inner, clock)


@pytest.fixture
def prometheus_program() -> Callable[[str], str]:
    """Find a program of Prometheus by its name."""

    def find(name: str) -> str:
        found = shutil.which(name, path=f"{ROOT / 'build/prometheus/usr/bin'}{os.pathsep}{os.environ['PATH']}")
        if found is None:
            pytest.fail(f"There is no {name}: run ./build.sh test, which gets it.")
        return found

    return find


@pytest.fixture
def full(cli: Cli, remote: Remote) -> Remote:
    """Return a cache with a job in every state, one in a state that mops-jobs does not know, and hostile names."""
    cli.ok("sync", "-q")
    for status in JobStatus:
        job_id = f"job-{status}"
        add(remote.jobs, job_id, owner="ada", k8s_name=f"k8s-{status}", namespace="n1", tasks_total=4)
        if status == JobStatus.SUCCEEDED:  # of the others, nothing reports the start
            remote.jobs.update_status(job_id, "running")
        remote.jobs.update_status(job_id, status)
    remote.jobs.update_progress("job-running", 1)
    remote.put(key("odd"), foreign("odd", 'hiber"nat\\ing\n', k8s_name='a"b\\c\nd', k8s_namespace='x"\n', owner="{}"))
    outputs = {"expected_outputs": [1, 2, 3], "verified_outputs": [1, 2], "missing_outputs": [3]}
    done = {"validation_completed_at": "2026-03-01T11:00:00"}
    remote.put(key("checked"), foreign("checked", "partial", **outputs, **done))
    remote.put(key("silent"), foreign("silent", heartbeat_at="2026-03-01T10:00:00+00:00"))
    remote.put(key("gone"), foreign("gone", metadata={"suspect": {"reason": "pod_gone"}}))
    remote.put(key("bad"), "{")
    assert cli("sync", "-q").code == 7
    return remote
