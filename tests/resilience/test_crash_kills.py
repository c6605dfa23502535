"""Commands killed at random instants leave nothing that the next one does not heal: a quick part of `reliability`."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mopsjobs.store.sqlite.store import SQLiteVersionedStore
from reliability.crashes import kinds as crashes
from reliability.crashes.cache import Mirrored
from reliability.crashes.kinds import Writers
from reliability.crashes.processes import Ended, Forker, forker
from reliability.trial import PromiseBroken, Trial
from support.servers import Azurite

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
    "INSERT INTO pruned SELECT key, version FROM job LIMIT 1": "pruned as well",
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
