"""One run of the command in a trial of syncs, with a defect if the trial puts one in.

`python -m reliability.storm.sync_process SPEC ARGV...` takes the JSON of a `Spec`, and runs `mops-jobs ARGV...`.
"""

from __future__ import annotations

import json
import sys
from typing import NamedTuple

import mops_jobs
from mopsjobs.store import pacer
from reliability.storm.mutations import SYNC_MUTATIONS


class Spec(NamedTuple):
    """Changes to the plain command."""

    silent_seconds: float = pacer.SILENT_SECONDS
    """How long a sync waits for a store that has answered before."""
    mutation: str = ""
    """A name in `SYNC_MUTATIONS`."""


def main() -> int:
    spec = Spec(*json.loads(sys.argv[1]))
    pacer.SILENT_SECONDS = spec.silent_seconds
    if spec.mutation:
        SYNC_MUTATIONS[spec.mutation].put_in()
    return mops_jobs.main(sys.argv[2:])


if __name__ == "__main__":
    sys.exit(main())
