"""Commands killed at random instants leave nothing that the next one does not heal: a quick part of `reliability`."""

from __future__ import annotations

import random
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from reliability import adaptive, checkpoints, packs
from reliability.calibrations import CALM, STORM, Storm, compare
from reliability.crashes import kinds as crashes
from reliability.crashes.kinds import Mirrored, Writers
from reliability.crashes.processes import Ended, Forker, forker
from reliability.storm.proxy import Plan, faulty
from reliability.trial import PromiseBroken, Trial
from support.servers import Azurite
from support.slurm import missing_programs

JOBS = 40


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path, seed=1, scale=0.01)


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    home = tmp_path / "home"
    home.mkdir()
    return {"HOME": str(home)}


@pytest.fixture
def forked(tmp_path: Path, env: dict[str, str]) -> Iterator[Forker]:
    with forker(tmp_path, env) as made:
        yield made


def test_a_killed_sync_or_prune_leaves_rows_that_are_right(trial: Trial, env: dict[str, str], forked: Forker) -> None:
    """Each row is a state that its record had, and the next sync makes the cache equal the registry."""
    assert list(crashes.syncs(trial, forked, "embedded", f"sqlite://{trial.directory}/jobs.db", env, 2, JOBS))


def test_a_killed_sync_of_azurite_is_healed(trial: Trial, azurite: Azurite) -> None:
    """The same against a server."""
    env = {"HOME": str(trial.directory), "AZURE_STORAGE_CONNECTION_STRING": azurite.connection_string}
    url = f"{azurite.endpoint}/{azurite.new_container()}"
    with forker(trial.directory, env) as forked:
        assert list(crashes.syncs(trial, forked, "Azurite", url, env, 1, JOBS))


def test_a_killed_writer_has_lost_nothing_that_was_acknowledged(trial: Trial, forked: Forker) -> None:
    """Each write with an exit code of 0 is there; of the one under way, all or nothing."""
    assert list(crashes.writes(trial, forked, 6))


def test_a_killed_runner_or_submission_can_be_resumed(trial: Trial, env: dict[str, str], forked: Forker) -> None:
    """Outputs are whole, and `resume` brings the job to its end."""
    assert list(crashes.jobs(trial, forked, env, 1))


# --- the trial itself can fail ------------------------------------------------------------------------------------


DAMAGES = {
    "UPDATE job SET tasks_completed = 7 WHERE job_id = 'busy-01'": "none of its states",
    "UPDATE job SET version = 'other' WHERE job_id = 'busy-01'": "never had the version",
    "DELETE FROM job_label WHERE job_id = 'busy-01' AND label = 'of'": "labels of busy-01",
    "DELETE FROM job WHERE job_id = 'busy-01'": "labels without their jobs",
    "UPDATE tally SET jobs = jobs + 1": "sums are not those",
    "INSERT INTO pruned SELECT key, version, NULL FROM job LIMIT 1": "pruned as well",
}


def test_the_trial_sees_a_wrong_cache(tmp_path: Path, forked: Forker, env: dict[str, str]) -> None:
    """A half row, a lost label, a sum that does not fit: what two transactions instead of one would leave."""
    mirrored = Mirrored(f"sqlite://{tmp_path}/jobs.db", env, tmp_path / "cache.db", random.Random(1), 3)
    with closing(mirrored):
        assert forked.run(mirrored.command("sync")).codes == [0]
        mirrored.check_equal()
        sound = mirrored.cache.read_bytes()
        for damage, told in DAMAGES.items():
            mirrored.cache.write_bytes(sound)
            with closing(sqlite3.connect(mirrored.cache)) as connection:
                connection.execute(damage)
                connection.commit()
            with pytest.raises(PromiseBroken, match=told):
                mirrored.check()


def test_the_trial_sees_an_acknowledged_write_that_is_lost(tmp_path: Path) -> None:
    """And one that no process had read yet."""
    writers = Writers(tmp_path / "registry.db")
    writers.prepare()
    SQLiteVersionedStore(writers.path).create_if_absent("other", b"")
    writers.look(Ended([], True, 0.1, "", ""))
    with pytest.raises(PromiseBroken, match="1 writes were acknowledged"):
        writers.look(Ended([0], True, 0.1, "", ""))
    with pytest.raises(PromiseBroken, match="refused"):
        writers.look(Ended([0, 6], True, 0.1, "", ""))


# --- An adaptive study under kills. That with 20 kills in each case is `./build.sh reliability --only adaptive` ------

QUICK = 0.2


@pytest.mark.long
@pytest.mark.parametrize("name", ["local, workers: 2", "Dask, workers: 2", "Slurm with a drop of files, workers: 2"])
def test_kills_change_neither_counts_nor_outputs(tmp_path: Path, name: str) -> None:
    """Of runners, workers and shards, with a replicate that fails at first, and after it was repaired."""
    if name.startswith("Slurm") and missing_programs():
        pytest.skip("there is no Slurm")
    lab = adaptive.make_lab(tmp_path / "bench", 1)
    expected = adaptive.calm(lab)
    assert expected[0].precision["failed"] == expected[1].precision["at_max"] == 1
    assert list(adaptive.over(Trial(tmp_path, 1, QUICK), name, lab, expected))


# --- A calibration under kills. That with 100 kills, on an Azurite that goes away, is in `./build.sh reliability` ----


def test_kills_do_not_change_the_journal(tmp_path: Path) -> None:
    """Of coordinators, workers and the runner: it is that of another number of workers undisturbed, byte for byte."""
    storm = Storm(tmp_path, seed=1, rounds=6)
    found = {CALM: storm.finish(storm.begin(CALM, 1))}
    found[STORM] = storm.suffer(Counter(coordinators=2, workers=2, runners=1), None)
    assert list(compare(storm, found, 6))
    assert storm.kills["coordinators"] > 0


# --- Tasks with checkpoints lose little when their workers and their runner are killed: a quick part of `reliability`


def test_kills_at_random_steps_cost_one_interval_each(tmp_path: Path) -> None:
    """And the outputs are those of tasks that nothing has disturbed."""
    assert list(checkpoints.over(Trial(tmp_path, seed=1, scale=0.08), "local"))


# --- A storm over a job with packs. That on all engines is `./build.sh reliability --only packs` ---------------------


@pytest.mark.azurite
@pytest.mark.long
def test_pods_that_die_in_an_outage_leave_each_task_once(tmp_path: Path, azurite: Azurite) -> None:
    """On the stand-in for a cluster, with a second runner of a shard: the same bytes as without packs, in all views."""
    with faulty(azurite.port, Plan(0.0)) as line:
        figures = {one.what: one.count for one in packs.over(Trial(tmp_path, 1, 0.1), "Kubernetes", azurite, line)}
    assert figures["outputs, each once, and results byte for byte as without packs"] == 120
