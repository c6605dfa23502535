"""`python -m reliability`: run the trials whole, and print what was done and what survived."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

from reliability.places import STORES
from reliability.trial import PromiseBroken, Trial

KINDS = {
    "storm": "storm.storms",
    "crashes": "crashes.kinds",
    "hostile": "hostile.inputs",
    "views": "views.sequences",
    "forecast": "forecast",
    "plans": "plans",
    "explain": "explaining",
    "precision": "precision",
    "packs": "packs",
    "checkpoints": "checkpoints",
    "adaptive": "adaptive",
    "calibrations": "calibrations",
}
"""Modules of this package, each with `run(trial) -> Iterator[Figure]`."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m reliability", description=__doc__, allow_abbrev=False)
    parser.add_argument("--only", action="append", choices=KINDS, help="this kind; repeat for more")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="where all chance comes from (default 1)")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="this part of the whole (default 1)")
    parser.add_argument("--steps", type=int, metavar="N", help="views: commands over each store (default 2000)")
    parser.add_argument(
        "--store", action="append", default=[], choices=STORES, help="views: this store; repeat for more"
    )
    args = parser.parse_args()
    if not 0 < args.scale <= 100:
        parser.error("--scale is a number above 0, at most 100")

    broken = False
    for kind in args.only or KINDS:
        print(f"\n## {kind}, seed {args.seed}, scale {args.scale:g}\n\n| what | count |\n|---|---|", flush=True)
        with tempfile.TemporaryDirectory(prefix="mops-jobs-reliability-", ignore_cleanup_errors=True) as directory:
            trial = Trial(Path(directory), args.seed, args.scale, args.steps, tuple(args.store))
            try:
                for figure in importlib.import_module(f"reliability.{KINDS[kind]}").run(trial):
                    print(f"| {figure.what} | {figure.count} |", flush=True)
            except PromiseBroken as error:
                broken = True
                print(f"| BROKEN | {error} |", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
