"""`serve`: serve the jobs as web pages."""

from __future__ import annotations

import argparse
import signal

from mopsjobs.app.run.app import App
from mopsjobs.cli.flags import argument_type
from mopsjobs.console.result import Result, Text
from mopsjobs.errors import EXIT_INTERRUPTED, MopsJobsError
from mopsjobs.utils.hosts import is_loopback
from mopsjobs.utils.text import read_whole_number
from mopsjobs.utils.times import parse_duration

HELP = "serve the jobs as live web pages, with an API and metrics"

DESCRIPTION = (
    "Serve the jobs as web pages, from the local cache, and sync it regularly. Page loads never contact the registry."
    " The page is read-only. There is no sign-in: by default, the server answers this machine only."
)

EXAMPLES = (
    "mops-jobs serve",
    "mops-jobs serve --offline --host 0.0.0.0 --allow-host jobs.example.org",
)

DEFAULT_PORT = 8765

MAX_PORT = 65535

SYNC_EVERY = "60s"

SYNC_EVERY_LOCAL = "2s"
"""For an embedded registry, which is on this machine."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    host = "address to listen on (default: 127.0.0.1)"
    parser.add_argument("--host", metavar="ADDRESS", default="127.0.0.1", help=host)
    port = argument_type(lambda text: read_whole_number(text, 0, MAX_PORT, "port", f"a number from 0 to {MAX_PORT}"))
    text = f"port to listen on, 0 for any free one (default: {DEFAULT_PORT})"
    parser.add_argument("--port", metavar="PORT", type=port, default=DEFAULT_PORT, help=text)
    allow = "also answer requests for this host name; repeat for more"
    parser.add_argument("--allow-host", metavar="HOST", action="append", default=[], help=allow)
    proxy = "all clients come through a proxy, so none of them is the user who runs the server"
    parser.add_argument("--behind-proxy", action="store_true", help=proxy)
    how = parser.add_mutually_exclusive_group()
    every = f"time between two syncs (default: {SYNC_EVERY}, or {SYNC_EVERY_LOCAL} for an embedded registry)"
    how.add_argument("--sync-every", metavar="DURATION", help=every)
    how.add_argument("--offline", action="store_true", help="never use the network; serve the cache as it is")


def run(args: argparse.Namespace, app: App) -> Result:
    """Serve."""
    default = SYNC_EVERY_LOCAL if app.settings.is_local else SYNC_EVERY
    every = None if args.offline else parse_duration(args.sync_every or default)

    from mopsjobs.web.server.server import serve

    def on_start(url: str) -> None:
        if not is_loopback(args.host):
            app.out.warn("Every client that reaches this address can read all jobs: there is no sign-in and no TLS.")
        app.out.show(Result(Text([url]), notes=["Stop with Ctrl-C."]))

    number = serve(
        app,
        host=args.host,
        port=args.port,
        allowed=args.allow_host,
        sync_every=every,
        on_start=on_start,
        behind_proxy=args.behind_proxy,
    )
    if number == 0:
        raise MopsJobsError("The server has stopped unexpectedly.")
    return Result(exit_code=EXIT_INTERRUPTED if number == signal.SIGINT else 0)
