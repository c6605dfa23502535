"""`python -m bench [NAME ...]`: measure, print the table, and with `--write` keep it in bench/RESULTS.md."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from bench import (
    azurite,
    calibrating,
    checkpoints,
    counting,
    growing,
    ledgers,
    listing,
    machine,
    metrics,
    peers,
    python_api,
    report,
    result_tables,
    series,
    serving,
    sessions,
    syncing,
    tasks,
    tools,
    updating,
)
from mopsjobs.cache.sync.mirror import SMALL_REGISTRY

BENCHMARKS = {
    "list": listing.run,
    "ledgers": ledgers.run,
    "sync": syncing.run,
    "grow": growing.run,
    "update": updating.run,
    "tasks": tasks.run,
    "checkpoints": checkpoints.run,
    "session": sessions.run,
    "calibrate": calibrating.run,
    "results": result_tables.run,
    "series": series.run,
    "serve": serving.run,
    "metrics": metrics.run,
    "python": python_api.run,
    "requests": counting.run,
    "peers": peers.run,
}
SECTIONS = {
    "Listings": ("list", "metrics"),
    "Inside a job": ("ledgers", "tasks", "checkpoints", "session", "calibrate", "results", "series"),
    "Syncs": ("sync", "grow"),
    "Writes": ("update", "requests"),
    "The page": ("serve",),
    "Beside other tools": ("python",),
    "Peers": ("peers",),
}
"""The tables of the report, by the benchmarks whose figures they have."""

ON_REQUEST = frozenset({"series", "peers"})
"""Benchmarks that take gigabytes or an hour, and that run only if they are named."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"benchmarks to run, of {', '.join(BENCHMARKS)}")
    parser.add_argument(
        "--jobs",
        type=int,
        default=10_000,
        metavar="N",
        help="jobs in each registry; large jobs have 10 or 100 times as many tasks, peers fewer alike (default 10000)",
    )
    parser.add_argument(
        "--runs", type=int, default=5, metavar="N", help="rounds; short processes run five times as many"
    )
    parser.add_argument(
        "--write", action="store_true", help="write the tables into bench/RESULTS.md instead of printing them"
    )
    args = parser.parse_args()
    if args.jobs < 100 or args.runs < 1:
        parser.error("needs at least 100 jobs and one run")

    if unknown := set(args.names).difference(BENCHMARKS):
        parser.error(f"unknown benchmarks: {', '.join(sorted(unknown))}")

    chosen = args.names or [name for name in BENCHMARKS if name not in ON_REQUEST]
    for names in SECTIONS.values():
        if args.write and (left := {*names} - ON_REQUEST - {*chosen}) and {*names}.intersection(chosen):
            parser.error(f"--write replaces whole tables, and this one needs also: {', '.join(sorted(left))}")
    if args.jobs <= SMALL_REGISTRY and (large := {"sync", "grow"}.intersection(chosen)):
        parser.error(f"{' and '.join(sorted(large))}: needs more than {SMALL_REGISTRY:,} jobs, fewer are always listed")
    sections: dict[str, list[report.Line]] = {}
    # The runner of a session may outlive its client for a moment, and write there.
    with tempfile.TemporaryDirectory(prefix="mops-jobs-bench-", ignore_cleanup_errors=True) as directory:
        setup = machine.Setup(args.jobs, args.runs, Path(directory))
        for title, names in SECTIONS.items():
            if lines := [line for name in names if name in chosen for line in BENCHMARKS[name](setup)]:
                sections[title] = lines
    peers = f"; {tools.rclone_version()}" if "sync" in chosen else ""
    settings = (
        f"rounds: {args.runs}, short processes {args.runs * listing.RUNS_FACTOR}; Azurite {azurite.version()}{peers}"
    )
    previous = report.RESULTS.read_text(encoding="utf-8") if args.write else ""
    text = report.markdown(sections, machine.description(), settings, previous)
    if args.write:
        report.RESULTS.write_text(text, encoding="utf-8")
        print(f"wrote {report.RESULTS.relative_to(machine.ROOT)}")
    else:
        print(text, end="")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except RuntimeError as error:
        sys.exit(f"bench: {error}")
