"""`serve`: the jobs as web pages, for a team."""

from __future__ import annotations

import argparse
import signal

from mopsjobs.app.app import App
from mopsjobs.cli.flags import add_command
from mopsjobs.console.result import Result, Text
from mopsjobs.errors import EXIT_INTERRUPTED, MopsJobsError
from mopsjobs.utils.hosts import is_loopback
from mopsjobs.utils.times import parse_duration

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.cli.commands import Commands


DEFAULT_PORT = 8765


SYNC_EVERY = "60s"


SYNC_EVERY_LOCAL = "2s"
"""Unless told otherwise; the second for an embedded registry, which is on this machine."""


def add_parser(name: str, commands: Commands, parents: list[argparse.ArgumentParser]) -> None:
    """Declare `serve`."""
    parser = add_command(
        commands,
        name,
        parents,
        help="the jobs as web pages, live, with an API and metrics",
        description="Serve web pages of the jobs, from the local cache, which is synced meanwhile. Whoever looks at "
        "them costs no request to the registry, and can change nothing. There is no sign-in: by default, only this "
        "machine is answered.",
        epilog="example:\n  mops-jobs serve --port 8765 --sync-every 30s\n",
    )
    parser.add_argument("--host", metavar="NAME", default="127.0.0.1", help="listen on this (default 127.0.0.1)")
    parser.add_argument(
        "--port", metavar="N", type=_port, default=DEFAULT_PORT, help="and this port, 0 for any (default 8765)"
    )
    parser.add_argument(
        "--allow-host", metavar="NAME", action="append", default=[], help="answer under this name too; repeat"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--sync-every", metavar="DURATION", help="how often to sync (default 60s; 2s for an embedded registry)"
    )
    how.add_argument("--offline", action="store_true", help="show the cache as it is: never use the network")


def run(args: argparse.Namespace, app: App) -> Result:
    """Serve."""
    default = SYNC_EVERY_LOCAL if app.settings.is_local else SYNC_EVERY
    every = None if args.offline else parse_duration(args.sync_every or default)

    from mopsjobs.web.server import serve

    def on_start(url: str) -> None:
        if not is_loopback(args.host):
            app.out.warn("Whoever reaches this address can read all jobs: there is no sign-in and no TLS.")
        app.out.show(Result(Text([url]), notes=["Ctrl-C ends it."]))

    number = serve(app, host=args.host, port=args.port, allowed=args.allow_host, sync_every=every, on_start=on_start)
    if number == 0:
        raise MopsJobsError("The server has ended by itself.")
    return Result(exit_code=EXIT_INTERRUPTED if number == signal.SIGINT else 0)


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"'{text}' is no port: use a number from 0 to 65535")
    return int(text)
