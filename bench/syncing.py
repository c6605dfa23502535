"""Mirroring a registry in Azurite, against rclone, against reading it record by record, and against the bare listing.

Once as it is, and once through a proxy that adds 30 ms to each reply, as a network does.
"""

from __future__ import annotations

from bench import azurite, proxy, registry_data
from bench.machine import Setup
from bench.measure import Case, in_turn, progress
from bench.report import Line, at_most
from bench.sync_cases import Registry

DELAY_SECONDS = 0.03

GOAL_JOBS = 10_000
"""The number of records that the goals are about."""

FULL_RATIO, FOREIGN_RATIO, UNCHANGED_RATIO = 0.2, 0.6, 0.4
"""Goals, as multiples of rclone's time for the same."""

DELAYED_FOREIGN_RATIO = 0.4
"""The goal for foreign records where each reply comes later."""

SCAN_RATIO, SCAN_TO_RCLONE = 0.35, 0.7
"""Goals of a scan without news, as multiples of the first full sync, and of rclone's time for the same."""

QUIET_RATIO = 1.3
"""Processor time of `sync -q` with nothing to do, as a multiple of importing the SDK and one request."""


def run(setup: Setup) -> list[Line]:
    """Measure syncs of `setup.jobs` records, of mops-jobs and of another program."""
    names = {name: azurite.new_container() for name in ("ours", "foreign")}
    with azurite.running(setup.directory) as server:
        for name, container in names.items():
            progress(f"writing {setup.jobs:,} records: {name}")
            registry_data.fill(server, container, setup.jobs, ours=name != "foreign")
        lines = _measure(setup, server, names, "", all_peers=True)
        with proxy.delayed(server.port, DELAY_SECONDS) as port:
            note = f", {DELAY_SECONDS * 1000:.0f} ms later"
            lines += _measure(setup, azurite.Azurite(port), names, note, all_peers=False)
    return lines


def _measure(setup: Setup, server: azurite.Azurite, names: dict[str, str], note: str, *, all_peers: bool) -> list[Line]:
    at = {
        name: Registry(setup, server, container, setup.jobs, f"{name}-{server.port}")
        for name, container in names.items()
    }
    cases = {
        "full": at["ours"].full_sync(),
        "rclone": at["ours"].rclone(),
        "unchanged": at["ours"].delta_sync(),
        "rclone, unchanged": at["ours"].rclone(unchanged=True),
        "foreign": at["foreign"].full_sync(),
        "rclone, foreign": at["foreign"].rclone(),
        "scan": at["ours"].scan(),
        "quiet": at["ours"].delta_sync(quiet=True),
        "one request": at["ours"].peer("one-request", prints=0),
    }
    peers = {
        "listing alone": at["ours"].peer("list"),
        "GET per record, azure-storage-blob, 16 threads": at["ours"].peer("get-16", slow=True),
    }
    measured = {**cases, **(peers if all_peers else {})}
    progress(f"syncs{note}, {setup.runs} rounds of {len(measured)} processes")
    in_turn(measured.values(), setup.runs, setup.directory)
    lines = _lines(setup, cases, note)
    if all_peers:
        lines += [_line(f"full sync, {setup.jobs:,} of our records", cases["full"], *peer) for peer in peers.items()]
    return lines


def _lines(setup: Setup, cases: dict[str, Case], note: str) -> list[Line]:
    count = f"{setup.jobs:,}"
    are_goals = setup.jobs == GOAL_JOBS
    quiet = cases["quiet"]
    cpu_ratio = quiet.ratios_to(cases["one request"])[1]

    def against_rclone(what: str, ours: str, theirs: str, limit: float) -> Line:
        return _line(f"{what}{note}", cases[ours], "rclone", cases[theirs], limit if are_goals else None)

    return [
        against_rclone(f"full sync, {count} of our records", "full", "rclone", FULL_RATIO),
        against_rclone(f"full sync, {count} foreign records", "foreign", "rclone, foreign",
                       DELAYED_FOREIGN_RATIO if note else FOREIGN_RATIO),
        against_rclone(f"sync, nothing changed among {count}", "unchanged", "rclone, unchanged", UNCHANGED_RATIO),
        against_rclone(f"scan, nothing changed among {count}", "scan", "rclone, unchanged", SCAN_TO_RCLONE),
        _line(
            f"scan, nothing changed among {count}{note}", cases["scan"], "its full sync", cases["full"],
            SCAN_RATIO if are_goals else None,
        ),
        Line(
            f"sync -q, nothing changed{note}: processor time", _processor(quiet),
            f"import of the SDK, one request, {_processor(cases['one request'])}",
            *quiet.ratios_to(cases["one request"]), at_most(QUIET_RATIO, cpu_ratio, " x"),
        ),
    ]  # fmt: skip


def _line(what: str, case: Case, against: str, other: Case, limit: float | None = None) -> Line:
    ratio, cpu_ratio = case.ratios_to(other)
    compared = f"{against}, {other.seconds:.2f} s"
    return Line(what, f"{case.seconds:.2f} s", compared, ratio, cpu_ratio, at_most(limit, ratio, " x"))


def _processor(case: Case) -> str:
    return f"{case.cpu_seconds:.2f} s"
