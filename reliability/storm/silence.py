"""Commands at a server that takes each request and never answers: each ends, and says why."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from bench.machine import ROOT
from reliability.storm.places import far
from reliability.storm.proxy import Plan
from reliability.trial import Figure, PromiseBroken, Trial

SILENT_COMMANDS = (
    ("sync",),
    ("list", "--refresh"),
    ("status", "job"),
    ("register", "other"),
    ("progress", "job", "1/2"),
    ("update", "job", "running"),
    ("cancel", "job"),
    ("doctor",),
)
"""Commands that talk to the registry."""

SILENT_SECONDS = 30.0
"""A command that takes longer at a server that says nothing hangs. It should be five, and the machine may be busy."""


def silence(trial: Trial, backend: str) -> list[Figure]:
    """Return how long commands take at a server of that backend that takes each request and never answers.

    Raises:
        PromiseBroken: one hangs, or does not say that the registry cannot be reached.
    """
    figures = []
    with far(backend, trial.directory, Plan(1.0, ("stall",), trial.seed)) as (place, _):
        for argv in SILENT_COMMANDS[: trial.times(len(SILENT_COMMANDS))]:
            home = trial.directory / f"silent-{backend}"
            env = {**os.environ, **place.env, "HOME": str(home), "MOPS_JOBS_REGISTRY": place.url}
            begun = time.monotonic()
            try:
                words = [sys.executable, str(ROOT / "mops_jobs.py"), *argv]
                ran = subprocess.run(
                    words, env=env, capture_output=True, text=True, timeout=SILENT_SECONDS, check=False
                )
            except subprocess.TimeoutExpired:
                raise PromiseBroken(f"{' '.join(argv)} hangs at a silent server.") from None
            seconds = time.monotonic() - begun
            if ran.returncode not in (5, 7) or not (ran.stderr or ran.stdout):
                raise PromiseBroken(f"{' '.join(argv)} ended with {ran.returncode} at a silent server: {ran.stderr}")
            figures.append(Figure(f"{backend}: seconds at a silent server: {' '.join(argv)}", f"{seconds:.1f}"))
    return figures
