"""The two processes of the day, as those who give them orders: see child.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.machine import ROOT
from mopsjobs.errors import EXIT_UNREACHABLE
from reliability.trial import hold

ATTEMPTS, PAUSE = 60, 5.0
"""At a command that finds the server too busy, and seconds between two of them."""

EXACT = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=0"}
"""What a thread keeps to itself of what was freed, up to a quarter of a megabyte, counts as in use: they keep nothing.

Otherwise the hundred threads of the page would seem to leak for days, each a little with every request.
"""


class Child:
    """One of the two processes."""

    def __init__(self, role: str, directory: Path, env: Mapping[str, str], *words: str) -> None:
        self.role = role
        self.cache = directory / f"{role}.db"
        self.outages = 0
        """How often a command ended with "unreachable, try again", and was tried again."""
        self._errors = (directory / f"{role}.err").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "reliability.life.child", role, *words],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **EXACT, **env, "MOPS_JOBS_CACHE": str(self.cache)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )

    def do(self, now: datetime, *commands: tuple[str, ...], measure: bool = False) -> dict[str, Any]:
        """Run commands at that time, each of which has to end with 0, after some attempts if the server is too busy."""
        answer = self._ask(now, commands, measure)
        done = answer["done"]
        for number, words in enumerate(commands):
            for _ in range(ATTEMPTS):
                if done[number]["code"] == EXIT_UNREACHABLE:
                    self.outages += 1
                    time.sleep(PAUSE)
                    (done[number],) = self._ask(now, (words,), measure)["done"]
            code = done[number]["code"]
            hold(code == 0, f"{' '.join(words)} ended with {code} at {now}: {self._said()}")
        return answer

    def _ask(self, now: datetime, commands: tuple[tuple[str, ...], ...], measure: bool) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"now": now.isoformat(), "commands": commands, "measure": measure}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        hold(bool(line), f"the process has died: {self._said()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it."""
        with self._process, self._errors:
            self._process.kill()

    def _said(self) -> str:
        self._errors.flush()
        self._errors.seek(0)
        return self._errors.read()[-1000:]
