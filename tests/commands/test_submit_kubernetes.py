"""`submit --engine kubernetes`: what it asks of the cluster, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.cli import Cli, Remote
from support.engines import PENDING, Cluster, state_of

if TYPE_CHECKING:
    from mopsjobs.engines.base import Launch, LaunchResult


@pytest.mark.parametrize(
    "flag",
    ["--shards", "--image", "--namespace", "--cpu", "--memory", "--secret", "--service-account", "--parallelism",
     "--context"],
)  # fmt: skip
def test_a_flag_for_a_cluster_is_refused_where_there_is_none(cli: Cli, flag: str) -> None:
    """It would have no effect."""
    study = '{"model": "m", "parameter_sets": [{"x": 1}]}'
    with open("study.json", "w", encoding="utf-8") as file:
        file.write(study)
    ran = cli("submit", "study.json", "--auto", flag, "2")
    assert ran.code == 2
    assert f"{flag} has no effect with the local engine" in ran.err


def test_submit_hands_the_flags_to_the_engine(cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
    from mopsjobs.engines.base import LaunchResult

    launches: list[Launch] = []

    class Noting(Cluster):
        def launch(self, launch: Launch) -> LaunchResult:
            launches.append(launch)
            return LaunchResult("kubectl …", "a", "models", "uid-1")

    monkeypatch.setattr("mopsjobs.submission.submit.open_engine", lambda name, env: Noting(PENDING))
    with open("study.json", "w", encoding="utf-8") as file:
        file.write('{"model": "m:f", "scenario": "s", "parameter_sets": [{"x": 1}]}')
    cli.ok(
        "submit", "study.json", "--auto", "--engine", "kubernetes", "--job-id", "a", "--shards", "3",
        "--image", "i:1", "--service-account", "sims", "--memory", "4Gi",
    )  # fmt: skip
    assert launches[0].shards == 3
    assert launches[0].options == {"image": "i:1", "service_account": "sims", "memory": "4Gi"}
    state = state_of(remote.jobs)
    assert (state.status, state.k8s_name, state.k8s_namespace, state.k8s_uid) == ("scheduled", "a", "models", "uid-1")


@pytest.mark.parametrize(
    ("flags", "said"),
    [([], "missing --image"), (["--image", "i", "--cpu", "x"], "invalid --cpu"), (["--namespace", "A"], "--namespace")],
)
def test_what_makes_no_sense_is_refused_before_anything_is_stored(
    cli: Cli, remote: Remote, flags: list[str], said: str
) -> None:
    """No record is left behind that says submitting for ever; a dry run tells too."""
    with open("study.json", "w", encoding="utf-8") as file:
        file.write('{"model": "m:f", "scenario": "s", "parameter_sets": [{"x": 1}]}')
    for more in ([], ["--dry-run"]):
        ran = cli("submit", "study.json", "--auto", "--engine", "kubernetes", *flags, *more)
        assert ran.code == 2
        assert said in ran.err
    assert list(remote.store.inner.list_keys()) == []
