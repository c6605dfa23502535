"""The command as a process of its own, and in this process; and the other ways to look: the page, the API, Python."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import mopsjobs as mj
from bench.machine import ROOT
from mopsjobs.app.run import config
from mopsjobs.app.run.app import App
from mopsjobs.console.printer import Printer
from mopsjobs.web.site.background import ChangeSignal
from mopsjobs.web.site.site import Site
from reliability.crashes.processes import Forker
from reliability.trial import hold
from support import cli
from support.web import make_client

LIMIT_SECONDS = 180
"""A command that takes longer hangs."""

PROCESS_LOOKS = 10
"""One of this number of looks is a process of its own."""
WHOLE_LOOKS = 100
"""One of this number is a process that also starts an interpreter."""

_AT = (
    "import sys; sys.path[0] = sys.argv.pop(1); import mops_jobs; from datetime import UTC, datetime, timedelta;"
    " now = datetime.fromtimestamp(float(sys.argv.pop(1)), UTC); sys.exit(mops_jobs.main(now=lambda: now))"
)
"""The command at a given time."""


class Ran(cli.Ran):
    """The result of a run of the command."""

    @property
    def json(self) -> Any:
        """Return the document that it printed.

        Raises:
            PromiseBroken: if it printed none.
        """
        hold(self.out.startswith("{"), f"there is no document, but exit {self.code}: {self.out}{self.err}")
        return super().json


class Machine:
    """A home with a cache of its own, and the environment in which the command runs there."""

    def __init__(self, home: Path, url: str, env: Mapping[str, str], forker: Forker) -> None:
        self.home = home
        self._forker = forker
        self.code = home / "code"
        self.code.mkdir(parents=True, exist_ok=True)
        self.url = url
        self._looks = 0
        self._site: Site | None = None
        self._client: Any = None
        self.env = {
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            **env,
            "HOME": str(home),
            "MOPS_JOBS_REGISTRY": url,
        }

    def has_cache(self) -> bool:
        """Return whether there is a cache. Over a network, the first view or sync makes it, and no `submit`."""
        return any((self.home / ".cache" / "mops-jobs").glob("*.db"))

    def words(self, *argv: str, at: float | None = None) -> list[str]:
        """Return the words that run the command as a process."""
        program = [str(ROOT / "mops_jobs.py")] if at is None else ["-c", _AT, str(ROOT), str(at)]
        return [sys.executable, *program, *argv]

    def run(self, *argv: str, at: float | None = None, **env: str) -> Ran:
        """Run the command as a process, at the given time or now.

        Raises:
            subprocess.TimeoutExpired: if it hangs.
        """
        ran = subprocess.run(
            self.words(*argv, at=at), env={**self.env, **env}, cwd=self.code, capture_output=True, text=True,
            timeout=LIMIT_SECONDS, check=False,
        )  # fmt: skip
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    def fork(self, *argv: str) -> Ran:
        """Run the command as a process that need not import anything."""
        ended = self._forker.run(argv, cwd=self.code, env=self.env)
        return Ran(ended.code if ended.codes else 1, ended.stdout, ended.stderr)

    def kill(self, *argv: str, after: float) -> bool:
        """Run the command likewise, and kill its process group after this many seconds. Return whether it was hit."""
        return self._forker.run(argv, cwd=self.code, env=self.env, kill_after=after).is_killed

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Start the command as the leader of a process group."""
        return subprocess.Popen(
            self.words(*argv), env=self.env, cwd=self.code, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            text=True, start_new_session=True,
        )  # fmt: skip

    def look(self, *argv: str) -> Ran:
        """Run the command in this process, in one that is forked, or in one with an interpreter of its own."""
        self._looks += 1
        if self._looks % PROCESS_LOOKS == 0:
            return self.run(*argv) if self._looks % WHOLE_LOOKS == 0 else self.fork(*argv)
        return Ran(*cli.run_in(self.code, argv, self.env))

    @contextlib.contextmanager
    def python(self) -> Iterator[mj.Registry]:
        """Yield the registry as a Python program has it."""
        with mj.connect(env=self.env) as registry:
            yield registry

    @contextlib.contextmanager
    def page(self) -> Iterator[Callable[[str], tuple[int, str]]]:
        """Yield what answers requests for pages: status and text. What a page asks for is read before its answer.

        The application lives as long as the machine, as that of `serve`.
        """
        if self._site is None:
            app = App(config.load({}, self.env, str(self.code)), Printer(None, None, self.env), self.env)
            self._site = Site(app, ChangeSignal(), None)
            self._client = make_client(self._site)
        site, client = self._site, self._client
        site.changes.add()
        reads = site.reads = site.make_reads()  # a page waits for seconds until it reads a job again

        def ask(path: str) -> tuple[int, str]:
            answer = client.get(path)
            while reads.run_next(0):
                site.changes.add()
                answer = client.get(path)
            return answer.status_code, answer.text

        yield ask

    def close(self) -> None:
        """Close the page."""
        if self._site is not None:
            self._site.app.close()
