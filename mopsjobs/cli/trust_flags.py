"""`--trust`: shared by cancel, logs, reconcile and resume."""

from __future__ import annotations

import argparse


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Declare `--trust`."""
    parser.add_argument(
        "--trust",
        metavar="KIND:VALUE",
        action="append",
        default=[],
        help="use this value, though only a record names it, like context:prod; repeat for more (default: ask)",
    )
