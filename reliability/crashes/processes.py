"""Commands as processes of their own that can be killed at any instant, without paying for imports each time.

A server has imported everything and forks. A kill hits a real process with its own group, in its work instead of in its
start. `python -m reliability.crashes.processes` is that server; it reads one order per line.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.machine import ROOT
from mopsjobs.utils.files import SUFFIX
from reliability.trial import PromiseBroken, hold

TRIES = 10
"""At a kill that falls inside: a script may be done long before the time that its measured run took."""
LEAST_TRIES = 40
"""However few kills are wanted: the fewer there are, the more one that is missed by chance counts."""


class Ended(NamedTuple):
    """The end of a script."""

    codes: list[int]
    """The exit codes of those commands that had one: what had been acknowledged."""
    is_killed: bool
    """Whether the kill came before the end."""
    seconds: float
    stdout: str
    stderr: str

    @property
    def out(self) -> str:
        """Return what it wrote to both streams."""
        return self.stdout + self.stderr

    @property
    def code(self) -> int:
        """Return the exit code of the last command that ended."""
        return self.codes[-1]


class Forker:
    """Runs scripts, which are commands one after the other in one process."""

    def __init__(self, directory: Path, env: dict[str, str]) -> None:
        """Start the server.

        Args:
            directory: where the scripts' output goes.
            env: all the environment that they see.
        """
        self._directory = directory
        self._env = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **env}
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(
            [sys.executable, "-m", "reliability.crashes.processes"], cwd=ROOT, stdin=pipe, stdout=pipe, text=True
        )

    def run(
        self,
        *script: Sequence[str],
        cwd: Path | None = None,
        kill_after: float | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Ended:
        """Run a script, and kill its process group after this many seconds, unless it is None.

        `env` takes the place of the environment of the server.
        """
        out, err, acknowledged = (self._directory / f"script.{name}" for name in ("out", "err", "codes"))
        for path in (out, err, acknowledged):
            path.unlink(missing_ok=True)
        order = {
            "script": [list(words) for words in script],
            "env": self._env if env is None else dict(env),
            "cwd": str(cwd or self._directory),
            "out": str(out),
            "err": str(err),
            "codes": str(acknowledged),
        }
        begun = time.monotonic()
        pid = int(self._ask(order))
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # a zombie until the server is asked again: the id is still its own
        status = int(self._ask(None))
        seconds = time.monotonic() - begun
        stdout, stderr, told = (path.read_text() if path.exists() else "" for path in (out, err, acknowledged))
        return Ended([*map(int, told.split())], status == -signal.SIGKILL, seconds, stdout, stderr)

    def close(self) -> None:
        """End the server."""
        with self._server:
            self._server.kill()

    def _ask(self, order: object) -> str:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        return self._server.stdout.readline()


@contextlib.contextmanager
def forker(directory: Path, env: dict[str, str]) -> Iterator[Forker]:
    """Yield a `Forker` for the time of the block."""
    made = Forker(directory, env)
    try:
        yield made
    finally:
        made.close()


class Killed(NamedTuple):
    """Kills of a script: how many fell inside, and how many were tried."""

    landed: int
    tried: int


def main() -> None:
    """Serve: an order starts a script and is answered by its process id, the next line is answered by its end."""
    import mops_jobs
    from mopsjobs.cli.commands import COMMANDS, load

    for name in COMMANDS:
        load(name)
    _load_backends()
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _play(order, mops_jobs.main)
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)  # here and in the parent: either may be first, before a kill
        print(pid, flush=True)
        sys.stdin.readline()
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _load_backends() -> None:
    """Import the SDKs of the stores, and read boto3's descriptions of services: most of the time of a command."""
    from mopsjobs.store.aws.client import service_descriptions

    for backend in ("azure", "dynamodb", "s3"):
        importlib.import_module(f"mopsjobs.store.{backend}.store")
    descriptions = service_descriptions()
    for name in ("endpoints", "partitions"):
        descriptions.load_data(name)
    for service, kind in itertools.product(("s3", "dynamodb"), ("service-2", "endpoint-rule-set-1")):
        descriptions.load_service_model(service, kind)


def _play(order: dict[str, object], command: object) -> None:
    os.setpgid(0, 0)
    os.environ.clear()
    os.environ.update(order["env"])  # type: ignore[arg-type]
    os.chdir(str(order["cwd"]))
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    for stream, path in ((1, order["out"]), (2, order["err"])):
        os.dup2(os.open(str(path), append, 0o600), stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    codes = os.open(str(order["codes"]), append, 0o600)
    for words in order["script"]:  # type: ignore[attr-defined]
        code = command(words)  # type: ignore[operator]
        sys.stdout.flush()
        os.write(codes, f"{code}\n".encode())
    os._exit(0)


MEASURED = 3
"""Runs to the end that tell how long a script takes."""
OWN_SUFFIXES = ("", "-wal", "-shm", "-journal", ".lock", ".build")
"""What may lie beside a cache or a registry, however many processes were killed."""

Script = Sequence[Sequence[str]]


def killing(
    forker: Forker,
    script: Callable[[], Script],
    chance: random.Random,
    wanted: int,
    *,
    prepare: Callable[[], None],
    look: Callable[[Ended], None],
    cwd: Path | None = None,
    ends: Collection[int] = (0,),
) -> Killed:
    """Kill a script again and again, at instants that are spread over the time that it takes.

    Args:
        forker: runs it.
        script: gives what is killed, each time.
        chance: where the instants come from.
        wanted: how many kills are to fall inside.
        prepare: called before each run.
        look: called after each kill.
        cwd: where it runs.
        ends: the exit codes with which its commands may end without a kill.

    Raises:
        PromiseBroken: `look` has found something, too few kills fell inside, or a command did not do what it is for.
    """

    def check_end(words: Script, ended: Ended) -> None:
        is_whole = len(ended.codes) == len(words) and set(ended.codes) <= set(ends)
        hold(is_whole, f"{' '.join(words[0][:3])} and what follows ended with {ended.codes}: {ended.out[-500:]}")

    took = []
    for _ in range(MEASURED):
        prepare()
        words = script()
        ended = forker.run(*words, cwd=cwd)
        check_end(words, ended)
        took.append(ended.seconds)
    seconds = statistics.median(took)
    landed = tried = 0
    while landed < wanted and tried < max(TRIES * wanted, LEAST_TRIES):
        tried += 1
        instant = chance.uniform(0, seconds)
        prepare()
        words = script()
        ended = forker.run(*words, cwd=cwd, kill_after=instant)
        landed += ended.is_killed
        try:
            if not ended.is_killed:
                check_end(words, ended)
            look(ended)
        except PromiseBroken as error:
            told = f"{' '.join(words[0][:3])}, killed after {instant:.4f} s of {seconds:.4f}"
            raise PromiseBroken(f"{told}, kill {tried}: {error}") from None
    hold(landed == wanted, f"{landed} kills fell inside, of {wanted} wanted, {tried} tried")
    return Killed(landed, tried)


def check_leftovers(path: Path) -> None:
    """Check that nothing lies beside a file of mops-jobs but what always may.

    Raises:
        PromiseBroken: something does, and would be one more each time.
    """
    allowed = {f"{path.name}{part}{suffix}" for part in ("", SUFFIX) for suffix in OWN_SUFFIXES}
    allowed.add(f"{path.name}.build{SUFFIX}")  # the lock of who makes it
    left = {one.name for one in path.parent.iterdir() if one.name.startswith(path.name)} - allowed
    hold(not left, f"left behind: {', '.join(sorted(left))}")


if __name__ == "__main__":
    main()
