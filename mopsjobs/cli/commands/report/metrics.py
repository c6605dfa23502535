"""`metrics`: print Prometheus metrics of the cache, or write them to a file for node_exporter."""

from __future__ import annotations

import argparse
import sqlite3

from mopsjobs.app.run.app import App
from mopsjobs.app.run.freshness import Freshness, FreshnessPolicy
from mopsjobs.console.result import RawText, Result

HELP = "print Prometheus metrics of the local cache"

DESCRIPTION = (
    "Print metrics in Prometheus' text format, from the local cache alone, however old it is. Counters grow as syncs"
    " see jobs end; a rebuilt cache starts them at 0."
)

EXAMPLES = (
    "mops-jobs metrics",
    "mops-jobs sync -q; mops-jobs metrics --textfile /var/lib/prometheus/node-exporter/mops-jobs.prom",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--textfile", metavar="PATH", help="replace this file (default: print)")


def run(args: argparse.Namespace, app: App) -> Result:
    """Print or write the metrics."""
    from mopsjobs.app.care import metrics

    now = app.now().timestamp()

    def view(connection: sqlite3.Connection, freshness: Freshness) -> Result:
        if args.textfile is None:
            return Result(RawText(metrics.render(connection, now=now).decode()))
        metrics.write_textfile(args.textfile, connection, now=now)
        ignored = f"node_exporter ignores {args.textfile}: it reads only files whose names end in .prom."
        return Result(warnings=[] if args.textfile.endswith(".prom") else [ignored])

    return app.cache.read(view, FreshnessPolicy(offline=True))
