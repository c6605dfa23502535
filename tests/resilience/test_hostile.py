"""The quick part of the trials with hostile records; the whole is `./build.sh reliability --only hostile`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from reliability.hostile import cluster as hostile_cluster
from reliability.hostile import inputs as hostile
from reliability.hostile import project as hostile_project
from reliability.hostile import registry as hostile_registry
from reliability.hostile import results as hostile_results
from reliability.hostile.ledger import ALL_READERS, BY_NAME
from reliability.hostile.readers import Reader
from reliability.hostile.values import archive, member
from reliability.trial import PromiseBroken, Trial

SCALE = 0.008

readers = pytest.mark.parametrize("reader", ALL_READERS, ids=[reader.name for reader in ALL_READERS])


@pytest.fixture
def trial(tmp_path: Path) -> Trial:
    return Trial(tmp_path, seed=1, scale=SCALE)


@readers
def test_what_an_honest_writer_writes_is_taken(reader: Reader) -> None:
    """Else a reader that refuses everything would pass for a careful one."""
    assert all(reader.check(value) for value in reader.seeds)


@readers
def test_nearly_sound_inputs_give_a_value_or_a_sentence(reader: Reader, trial: Trial) -> None:
    """And what is taken can be shown, and written and read again."""
    hostile.generated(reader, trial)
    hostile.in_each_place(reader, trial)


def test_a_manifest_with_many_tasks_is_read_in_bounds(trial: Trial) -> None:
    hostile.many_tasks(trial)


@pytest.mark.claim("No control character reaches a terminal")
def test_commands_over_a_hostile_registry_print_nothing_raw(trial: Trial) -> None:
    """Each reading command, to a terminal and into a pipe, and the pages: bad records are reported and stop none."""
    hostile_registry.run(trial)


@pytest.mark.claim("A project file leads to no other file")
def test_project_files_of_an_attacker_touch_nothing_else(trial: Trial) -> None:
    """Commands in the directories of an attacker: no file outside changes, and none of the user's within."""
    hostile_project.run(trial)


def test_the_trial_sees_a_cache_outside_of_the_project(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the check of the path taken out, the first command writes to the home directory."""

    def anywhere(path: str, cache: str) -> str:
        return str(Path(path).parent / Path(cache).expanduser())

    monkeypatch.setattr("mopsjobs.app.run.config.cache_below", anywhere)
    with pytest.raises(PromiseBroken, match=r"has (made|changed)"):
        hostile_project.run(trial)


def test_the_trial_sees_a_record_that_nobody_tells_of(trial: Trial) -> None:
    """Each of the hostile registry is listed, or reported: one that is neither is lost."""
    registry = hostile_registry.Registry(trial.directory)
    ran = registry.run("sync", "--json")
    assert hostile_registry.check_sync(registry, ran) > 0
    told = json.loads(ran.out)
    told["problems"] = [one for one in told["problems"] if not one["key"].startswith("jobs/wrong-status-")]
    with pytest.raises(PromiseBroken, match=r"wrong-status-.* is lost"):
        hostile_registry.check_sync(registry, ran._replace(out=json.dumps(told)))


@pytest.mark.claim("A record leads to no object of a cluster but a Job")
def test_no_record_leads_elsewhere_in_a_cluster(trial: Trial) -> None:
    """No answer of the cluster is printed raw.

    It is asked for the Job that a record can mean, and its pods; nothing else is deleted, whatever a name holds.

    Nor is a context, image, Secret, service account, engine or scheduler used that only a record chooses.
    """
    assert len(hostile_cluster.run(replace(trial, scale=SCALE / 2))) == 3


@pytest.mark.claim("The key of an output chooses no file")
def test_no_key_of_an_output_chooses_a_file(trial: Trial) -> None:
    """Each is downloaded to a new file of its own, or named with the reason; every file that was there stays."""
    assert len(hostile_results.run(trial)) == 2


ESCAPES = {
    "up": archive((member("../x"), b"x")),
    "up, inside": archive((member("a/../../x"), b"x")),
    "absolute": archive((member("/tmp/x"), b"x")),
    "link up": archive((member("l", b"2", "../outside"), b"")),
    "absolute link": archive((member("l", b"2", "/etc"), b"")),
    "links up together": archive((member("d/l", b"2", ".."), b""), (member("m", b"2", "d/l/.."), b"")),
    "file through a link": archive((member("l", b"2", "a"), b""), (member("l/x"), b"x")),
    "hard link": archive((member("a"), b"x"), (member("h", b"1", "a"), b"")),
    "hard link out": archive((member("h", b"1", "../../etc/passwd"), b"")),
    "character device": archive((member("c", b"3"), b"")),
    "block device": archive((member("b", b"4"), b"")),
    "pipe": archive((member("p", b"6"), b"")),
    "twice": archive((member("a"), b"x"), (member("a"), b"y")),
}


@pytest.mark.claim("A path in a bundle stays in its directory")
@pytest.mark.parametrize("value", ESCAPES.values(), ids=ESCAPES)
def test_what_leads_out_of_a_bundle_is_refused(value: bytes) -> None:
    """And nothing of it is left outside."""
    assert not BY_NAME["bundle"].check(value)


@pytest.mark.parametrize("name", ["a\x1b[31mb", "a\nb", "\u202eb", "A", "a b", "-rf", "$(id)"])
def test_strange_names_and_setuid_bits_stay_inside(name: str) -> None:
    """A name is a name on this system; of the mode only the owner's rights are kept."""
    assert BY_NAME["bundle"].check(archive((member("a"), b"x"), (member(name, mode=0o6777), b"y")))
