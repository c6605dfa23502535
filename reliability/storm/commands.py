"""Runs of the command in a storm, by this version and by the first release, whose source is in this repository."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sqlite3
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any, NamedTuple

from bench.machine import ROOT
from mopsjobs.errors import EXIT_NO_SUCH_JOB, EXIT_PARTLY_DONE, EXIT_REFUSED, EXIT_UNREACHABLE

RELEASE = "0.1.0"

COMMIT = "6855f40"
"""The commit that `tests/golden/0.1.0/` was written by. It has no tag, and no package index has it."""

COMMAND_SECONDS = 90
"""A command that takes longer hangs. One that tries thrice at a server that is silent takes 15."""

IN_DOUBT = "may or may not have landed"
"""What the hint of an error says exactly when its write may have landed."""

OLD_CACHE, UPGRADED_CACHE = ".old", ".upgraded"
"""What follows the path of a process's cache in those of the release's cache, and of a copy that this version syncs."""

REFUSAL = "made by a newer mops-jobs"

_OLD_MAIN = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from mopsjobs.cache import mirror;"
    " mirror.SMALL = mirror.GET_COST = 0; import mops_jobs; sys.exit(mops_jobs.main())"
)
"""As the command, but a small registry is synced by announcements."""


class Ended(NamedTuple):
    """The end of a command."""

    outcome: str
    """As the client notes it."""
    answer: dict[str, Any]
    """Its JSON, or its exit code and what it said on stderr."""


def unpack_release(directory: Path) -> str:
    """Unpack the source of the release, and return where it is; empty if this clone lacks the commit."""
    words = ["git", "archive", COMMIT, "mops_jobs.py", "mopsjobs"]
    ran = subprocess.run(words, cwd=ROOT, capture_output=True, check=False)
    if ran.returncode != 0:
        return ""
    with tarfile.open(fileobj=io.BytesIO(ran.stdout)) as archive:
        archive.extractall(directory, filter="data")
    return str(directory)


class Commands:
    """Runs commands on one registry and a cache of each version."""

    def __init__(self, url: str, cache: str, old: str) -> None:
        """Keep what is needed.

        Args:
            url: the registry.
            cache: the cache of this version.
            old: the source of the release; empty if it is not used.
        """
        self._url = url
        self._cache = cache
        self._old = old

    def run(self, *argv: str, is_old: bool = False) -> Ended:
        """Run a command that prints JSON."""
        words = [sys.executable, *(("-c", _OLD_MAIN, self._old) if is_old else (str(ROOT / "mops_jobs.py"),)), *argv]
        return self._run(words, self._cache + OLD_CACHE if is_old else self._cache)

    def sync_by_release(self) -> Ended:
        """Let the release sync its cache, and return what that holds then: each job's revision and version."""
        ended = self.run("sync", "--json", is_old=True)
        if ended.outcome != "ok" or ended.answer["already_running"]:  # that of a process that was killed
            # The release names a page that was cut off as an answer that it cannot use, where this version reads again.
            is_crash = ended.outcome == "crashed" and "Traceback" in ended.answer["stderr"]
            return ended if is_crash else Ended("failed", ended.answer)
        with contextlib.closing(sqlite3.connect(self._cache + OLD_CACHE)) as connection:
            found = connection.execute("SELECT key, json_extract(record, '$.revision'), version FROM job").fetchall()
        problems = [(one["key"], one["reason"]) for one in ended.answer["problems"]]
        is_full = ended.answer["mode"] == "full"
        return Ended("ok", {"is_full": is_full, "rows": {key: rest for key, *rest in found}, "problems": problems})

    def copy_of_old_cache(self) -> str:
        """Copy the cache of the release, and return the path of the copy."""
        path = self._cache + UPGRADED_CACHE
        with (
            contextlib.closing(sqlite3.connect(self._cache + OLD_CACHE)) as old,
            contextlib.closing(sqlite3.connect(path)) as new,
        ):
            old.backup(new)
        return path

    def offer_newer_cache(self) -> Ended:
        """Let the release open the cache of this version. It says that it cannot, and leaves it as it is."""
        before = Path(self._cache).read_bytes()
        ended = self._run([sys.executable, "-c", _OLD_MAIN, self._old, "list"], self._cache)
        is_refused = REFUSAL in ended.answer.get("stderr", "") and Path(self._cache).read_bytes() == before
        return Ended("ok" if is_refused else "crashed", ended.answer)

    def _run(self, words: list[str], cache: str) -> Ended:
        env = {**os.environ, "MOPS_JOBS_REGISTRY": self._url, "MOPS_JOBS_CACHE": cache}
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
