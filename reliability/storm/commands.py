"""Runs of the command in a storm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, NamedTuple

from bench.machine import ROOT
from mopsjobs.errors import EXIT_NO_SUCH_JOB, EXIT_PARTLY_DONE, EXIT_REFUSED, EXIT_UNREACHABLE

COMMAND_SECONDS = 90
"""A command that takes longer hangs. One that tries thrice at a server that is silent takes 15."""

IN_DOUBT = "may or may not have landed"
"""What the hint of an error says exactly when its write may have landed."""


class Ended(NamedTuple):
    """The end of a command."""

    outcome: str
    """As the client notes it."""
    answer: dict[str, Any]
    """Its JSON, or its exit code and what it said on stderr."""


def run_command(url: str, cache: str, *argv: str) -> Ended:
    """Run a command that prints JSON, on a registry and a cache."""
    env = {**os.environ, "MOPS_JOBS_REGISTRY": url, "MOPS_JOBS_CACHE": cache}
    words = [sys.executable, str(ROOT / "mops_jobs.py"), *argv]
    try:
        ran = subprocess.run(words, env=env, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Ended("hung", {})
    known = {0: "ok", EXIT_PARTLY_DONE: "ok", EXIT_NO_SUCH_JOB: "refused", EXIT_REFUSED: "refused"}
    outcome = known.get(ran.returncode, "crashed")
    if ran.returncode == EXIT_UNREACHABLE:
        outcome = "unknown" if IN_DOUBT in ran.stderr else "unreached"
    failed = {"stderr": ran.stderr, "exit_code": ran.returncode}
    return Ended(outcome, json.loads(ran.stdout) if outcome == "ok" else failed)
