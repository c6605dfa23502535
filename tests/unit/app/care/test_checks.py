"""The checks of `doctor`, run from Python: one function per check, each with at most one result."""

from __future__ import annotations

import pytest

from mopsjobs.app.care import checks
from mopsjobs.app.care.checks import CHECKS, CheckResult, Diagnosis, run_checks
from mopsjobs.errors import EXIT_DONE, EXIT_UNREACHABLE
from support.cli import Cli, Remote, add


def test_every_check_of_the_module_is_run_once() -> None:
    """`CHECKS` has each public function that begins with `check_`."""
    defined = [one for one in vars(checks).values() if getattr(one, "__module__", None) == checks.__name__]
    assert sorted(check.__name__ for check in CHECKS) == sorted(
        one.__name__ for one in defined if one.__name__.startswith("check_")
    )


def test_a_sound_registry_passes_every_check(cli: Cli, remote: Remote) -> None:
    """A check that does not apply has no result, as the clock of a store that has none."""
    add(remote.jobs, "a")
    cli.ok("sync")
    diagnosis = run_checks(cli.app())
    assert {result.state for result in diagnosis.results} == {"ok"}
    assert (diagnosis.state_of("access"), diagnosis.state_of("clock")) == ("ok", None)
    assert (diagnosis.exit_code, diagnosis.problems) == (EXIT_DONE, [])


def test_the_exit_code_is_that_of_the_first_failure(cli: Cli, remote: Remote) -> None:
    """While the registry cannot be reached, a sync is not named as a fix."""
    remote.store.down = True
    diagnosis = run_checks(cli.app())
    assert (diagnosis.state_of("access"), diagnosis.exit_code) == ("fail", EXIT_UNREACHABLE)
    assert {result.name: result.fix for result in diagnosis.results}["cache"] == (
        "restore the access to the registry first"
    )


def test_the_time_of_a_reply_is_without_that_of_signing_in(
    cli: Cli, remote: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that signs in at its first request does so before."""
    scans_before: list[int] = []

    def connect() -> None:
        scans_before.append(remote.store.calls["scan"])

    monkeypatch.setattr(remote.store, "connect", connect, raising=False)
    run_checks(cli.app())
    assert scans_before == [0]


@pytest.mark.parametrize(("kind", "state"), [("nfs4", "warn"), (None, None)])
def test_a_network_file_system_is_warned_of(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, kind: str | None, state: str | None
) -> None:
    """The cache and an embedded registry are checked each."""
    monkeypatch.setattr(checks, "network_file_system", lambda path: kind)
    diagnosis = Diagnosis(cli.app(), [])
    for check, name in ((checks.check_cache_file_system, "cache"), (checks.check_registry_file_system, "registry")):
        result = check(diagnosis)
        assert (None if result is None else result.state) == state
        if isinstance(result, CheckResult):
            assert result.fix == f"put the {name} on a local disk"
