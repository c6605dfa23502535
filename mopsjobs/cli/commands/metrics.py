"""`metrics`: the cache as Prometheus metrics, on stdout or in a file for node_exporter."""

from __future__ import annotations

import argparse
import sqlite3

from mopsjobs.app.app import App
from mopsjobs.app.freshness import Freshness, FreshnessPolicy
from mopsjobs.app.job_arguments import positive_number
from mopsjobs.cli.flags import add_command
from mopsjobs.console.result import RawText, Result

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cli.commands import Commands


PER_JOB_LIMIT = 500


EXAMPLES = """example, for cron:
  mops-jobs sync -q; mops-jobs metrics --textfile /var/lib/prometheus/node-exporter/mops-jobs.prom
"""


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `metrics`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="metrics for Prometheus, from the local cache",
        description="Print metrics in Prometheus' text format. They come from the local cache alone, however old it "
        "is: mops_sync_last_success_timestamp_seconds tells. Counters grow as syncs see jobs end; a rebuilt cache "
        "starts anew.",
        epilog=EXAMPLES,
    )
    parser.add_argument("--textfile", metavar="PATH", help="into this file instead, replaced as a whole")
    parser.add_argument(
        "--per-job",
        metavar="N",
        nargs="?",
        type=positive_number,
        const=PER_JOB_LIMIT,
        help=f"series of single active jobs besides, of N at most ({PER_JOB_LIMIT})",
    )
    parser.add_argument("--owner", action="store_true", help="with the owners of jobs as a label")


def run(args: argparse.Namespace, app: App) -> Result:
    """Print or write the metrics."""
    from mopsjobs.app import metrics

    chosen = metrics.MetricsOptions(per_job=args.per_job, owner=args.owner)
    now = app.now().timestamp()

    def view(connection: sqlite3.Connection, freshness: Freshness) -> Result:
        if args.textfile is None:
            return Result(RawText(metrics.render(connection, chosen, now=now).decode()))
        metrics.write_textfile(args.textfile, connection, chosen, now=now)
        is_read = args.textfile.endswith(".prom")
        return Result(warnings=[] if is_read else ["node_exporter reads only files whose names end in .prom."])

    return app.cache.read(view, FreshnessPolicy(offline=True))
