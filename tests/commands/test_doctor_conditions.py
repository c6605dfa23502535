"""`doctor` over a server that may ignore the conditions of writes, and the commands that write to a liar or read it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from mopsjobs.store.condition_probe import ProbedStore
from mopsjobs.store.memory import InMemoryVersionedStore
from support.cli import Cli, LineStore, Remote, add
from support.lying_stores import SECOND_CREATION, SERVER, STALE_UPDATE, IgnoresAll, RefusingStore

if TYPE_CHECKING:
    from collections.abc import Callable

    Put = Callable[[LineStore], LineStore]


@pytest.fixture
def behind(remote: Remote, monkeypatch: pytest.MonkeyPatch) -> Put:
    """Put a store behind a server that is probed before it is written to."""

    def put(store: LineStore) -> LineStore:
        monkeypatch.setattr(remote, "store", ProbedStore(store, lambda: SERVER))
        return store

    return put


def _conditions(cli: Cli, code: int = 0) -> dict[str, str | None]:
    ran = cli("doctor", "--json")
    assert ran.code == code, ran
    found = {check["name"]: check for check in ran.json["checks"]}["conditions"]
    del found["name"]
    return found


def test_doctor_probes_a_server_each_time(cli: Cli, behind: Put) -> None:
    """It leaves the note that spares writers a probe, and no key of the probe; an empty registry is probed too."""
    line = behind(LineStore(InMemoryVersionedStore()))
    kept = {"state": "ok", "detail": "kept: the server refuses second creations and updates of stale versions"}
    for _ in range(2):
        assert _conditions(cli) == {**kept, "fix": None}
    assert line.calls["put"] == 7  # the second one renews the note
    assert len(list(line.inner.list_keys())) == 1
    line.down = True
    assert "conditions" not in cli("doctor").out


def test_a_liar_fails_doctor_and_each_command_that_writes(cli: Cli, behind: Put) -> None:
    """Both end with the exit code of a wrong setting, and say what is ignored. Reading commands work, unprobed."""
    line = behind(LineStore(IgnoresAll()))
    found = _conditions(cli, 2)
    assert found["state"] == "fail"
    assert str(found["detail"]).startswith(f"The store {SECOND_CREATION}; it {STALE_UPDATE}")
    assert str(found["fix"]).startswith("Updates of jobs would get lost there.")
    ran = cli("register", "a")
    assert ran.code == 2
    assert SECOND_CREATION in ran.err
    assert str(found["fix"]) in ran.err
    assert list(line.inner.list_keys()) == []
    line.calls.clear()
    for words in (("sync",), ("list", "--refresh"), ("status", "a")):
        cli(*words)
    assert {*line.calls} <= {"get", "scan", "list_keys"}


def test_doctor_does_not_fail_for_credentials_that_only_read(cli: Cli, behind: Put) -> None:
    """A viewer has nothing to correct, and is told that the server was not probed."""
    line = behind(RefusingStore(InMemoryVersionedStore(), "create_if_absent", "put", "delete"))
    assert _conditions(cli) == {
        "state": "ok", "detail": "not probed, since writes are refused: refused: create_if_absent.", "fix": None
    }  # fmt: skip
    assert list(line.inner.list_keys()) == []


def test_doctor_names_the_key_that_it_may_not_delete(cli: Cli, behind: Put) -> None:
    """The conditions are kept all the same."""
    line = behind(RefusingStore(InMemoryVersionedStore(), "delete"))
    found = _conditions(cli)
    assert found["state"] == "warn"
    left = [key for key in line.inner.list_keys() if "/probe-" in key]
    assert str(found["detail"]).endswith(f"the credentials may not delete {left[0]}")
    assert found["fix"] == "remove that key, or allow the credentials to delete keys"


def test_an_outage_during_the_probe_is_one_in_doctor(cli: Cli, behind: Put) -> None:
    line = behind(LineStore(InMemoryVersionedStore()))
    line.fail_next(1, "put")
    found = _conditions(cli, 5)
    assert (found["state"], found["detail"]) == ("fail", "No connection for put.")


def test_other_registries_are_not_probed(cli: Cli, remote: Remote) -> None:
    """Neither an embedded one nor one of a kind that has one maker: `doctor` writes nothing there."""
    add(remote.jobs, "a")
    assert "conditions" not in cli("doctor").out
    assert not remote.store.calls.keys() & {"create_if_absent", "put", "delete"}
