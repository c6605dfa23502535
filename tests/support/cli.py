"""The command as tests run it: in this process, with an environment, a clock and a registry of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import warnings
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import mops_jobs
from mopsjobs.app.run import config
from mopsjobs.app.run.app import App
from mopsjobs.console.printer import Printer
from mopsjobs.errors import StoreAccessError, StoreUnavailableError
from mopsjobs.registry.job_registry import JobRegistry
from mopsjobs.store.base import always
from mopsjobs.store.memory import InMemoryVersionedStore
from support.doubles import FaultyStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import pytest

    from mopsjobs.store.base import Entry, Versioned, VersionedStore, WantsValues

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
REMOTE_URL = "https://example.blob.core.windows.net/jobs"
NOBODY = 65534
PROGRAM: tuple[str, ...] = (os.path.abspath(mops_jobs.__file__),)
"""What the interpreter gets before the words of a command. A test with a server replaces it: see `_patient_stores`."""


class Clock:
    """A clock that moves when it is told to, and when a caller sleeps on it."""

    def __init__(self) -> None:
        self.moment = START
        self.slept: list[float] = []
        self.on_sleep: Callable[[int], None] = lambda count: None
        """Called after each sleep with the number of them so far: what the world does meanwhile."""

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return self.moment.timestamp()

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds=seconds)
        self.on_sleep(len(self.slept))

    def advance(self, **parts: float) -> None:
        self.moment += timedelta(**parts)


Spawn = Callable[..., subprocess.Popen[str]]
"""Starts the command: its words, and what to add to its environment by name. See the fixture `spawn`."""


class Ran(NamedTuple):
    """The result of a run of the command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        """Return the JSON objects that it printed, one per line."""
        return [json.loads(line) for line in self.lines]


class _Stream(io.TextIOWrapper):
    """The output of a command in this process, as text or as bytes."""

    def __init__(self) -> None:
        self._bytes = io.BytesIO()
        super().__init__(self._bytes, encoding="utf-8", newline="")

    def text(self) -> str:
        self.flush()
        return self._bytes.getvalue().decode()


def run_in(directory: Path, argv: Sequence[str], env: Mapping[str, str]) -> Ran:
    """Run the command in this process and a directory, by the real clock."""
    out, err = _Stream(), _Stream()
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.chdir(directory))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", "subprocess .* is still running", ResourceWarning)  # a runner goes on
        code = mops_jobs.main(list(argv), env=env)
    return Ran(code, out.text(), err.text())


class Cli:
    """Calls `mops_jobs.main`. `env` is all the environment that it sees; keyword arguments add to it for one call."""

    def __init__(self, home: Path, clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
        self.env = {
            "HOME": str(home),
            "MOPS_JOBS_REGISTRY": f"sqlite://{home}/registry.db",
            "MOPS_JOBS_CACHE": str(home / "cache.db"),
        }
        self.cache = home / "cache.db"
        self.clock = clock
        self.at_end = contextlib.ExitStack()
        """Closed when the test has ended."""
        self._capsys = capsys

    def __call__(self, *argv: str, **env: str) -> Ran:
        self._capsys.readouterr()
        clock = self.clock
        code = mops_jobs.main(
            list(argv), env={**self.env, **env}, now=clock.now, sleep=clock.sleep, monotonic=clock.monotonic
        )
        return Ran(code, *self._capsys.readouterr())

    def ends(self, code: int, *argv: str, **env: str) -> Ran:
        """Run something that has to end with this code."""
        ran = self(*argv, **env)
        assert ran.code == code, ran
        return ran

    def ok(self, *argv: str, **env: str) -> Ran:
        """Run something that has to end with 0."""
        return self.ends(0, *argv, **env)

    def fails(self, code: int, *argv: str, **env: str) -> str:
        """Run something that has to end with this code and one sentence on stderr; return what was said there."""
        ran = self(*argv, **env)
        assert (ran.code, ran.out, len(sentences(ran.err))) == (code, "", 1), ran
        return ran.err

    def ids(self, *argv: str) -> list[str]:
        """Return the ids that `list` gives for these flags."""
        return self.ok("list", "-q", *argv).lines

    def held(self) -> list[str]:
        """Return the ids of all jobs that the cache has, in order."""
        return sorted(self.ids("--offline", "--limit", "0"))

    def app(self) -> App:
        """Open the run that a command would get, for a Python program."""
        out = Printer(None, None, self.env)
        clock = self.clock
        settings = config.load({}, self.env, self.env["HOME"])
        made = App(settings, out, self.env, now=clock.now, sleep=clock.sleep, monotonic=clock.monotonic)
        self.at_end.callback(made.close)
        return made


def during_sleeps(cli: Cli, **deeds: Callable[[], object]) -> None:
    """Do each deed during the sleep of that number: `_3=...` in the third."""
    todo = {int(name.removeprefix("_")): deed for name, deed in deeds.items()}
    cli.clock.on_sleep = lambda count: todo.pop(count, lambda: None)()


class LineStore(FaultyStore):
    """A `FaultyStore` whose line can be cut altogether or in the middle of a listing, and which can hide the values."""

    def __init__(self, inner: VersionedStore) -> None:
        super().__init__(inner)
        self.down = False
        self.break_scan_at: int | None = None
        self.hides_values = False
        """Whether listings are without values, as those of records that other programs wrote to Azure."""
        self.refused_key: str | None = None
        """A key whose value it refuses to send."""
        self.after_listing: Callable[[], None] = lambda: None
        """Called when a listing has been taken, before any of it is handed out: what happens meanwhile."""

    def get(self, key: str) -> Versioned | None:
        if key == self.refused_key:
            raise StoreAccessError("The store refused the credentials.")
        return super().get(key)

    def scan(self, prefix: str = "", wants_values: WantsValues = always, after: str = "") -> Iterator[Entry]:
        entries = list(super().scan(prefix, wants_values, after))
        self.after_listing()
        for number, entry in enumerate(entries):
            if number == self.break_scan_at:
                raise StoreUnavailableError("The listing broke off.")
            yield entry._replace(value=None) if self.hides_values else entry

    def close(self) -> None:
        """Do nothing: one run of the command hangs up, and the registry lives on."""

    def _enter(self, method: str) -> None:
        super()._enter(method)
        if self.down:
            raise StoreUnavailableError("Cannot reach the registry: connection refused.", sent=False)


class Remote:
    """A registry that lies across a network, as far as the command can tell: it is in memory, and can be cut off."""

    def __init__(self, clock: Clock) -> None:
        self.store = LineStore(InMemoryVersionedStore())
        self.jobs = JobRegistry(self.store.inner, now=clock.now, sleep=clock.sleep)
        """The registry as another machine uses it."""

    def put(self, key: str, value: bytes | str) -> None:
        """Write bytes without the registry."""
        put(self.store.inner, key, value)


def put(store: VersionedStore, key: str, value: bytes | str) -> None:
    """Make `value` what lies under `key`, whatever was there."""
    store.delete(key)
    assert store.create_if_absent(key, value if isinstance(value, bytes) else value.encode())


def put_foreign(store: VersionedStore, names: str) -> None:
    """Put a record of another program for each of these ids, which have blanks between them."""
    for name in names.split():
        put(store, key(name), foreign(name))


def add(registry: JobRegistry, job_id: str, status: str = "pending", **fields: Any) -> None:
    """Register a job and bring it to a status."""
    registry.register_job(job_id, **fields)
    if status != "pending":
        registry.update_status(job_id, status)


def foreign(job_id: str, status: str = "running", **fields: object) -> str:
    """Return a record as another program writes it: without our fields, times without an offset, indented."""
    record = {
        "job_id": job_id,
        "status": status,
        "created_at": "2026-03-01T10:00:00",
        "updated_at": "2026-03-01T11:00:00",
        "k8s_name": f"k8s-{job_id}",
        "k8s_namespace": "modelops",
        "metadata": {},
        **fields,
    }
    return json.dumps(record, indent=2)


def key(job_id: str) -> str:
    """Return where a job's record lies."""
    return f"jobs/{job_id}/state.json"


def sentences(err: str) -> list[str]:
    """Return what was said on stderr, without the hints and the note that a registry has no file yet."""
    return [line for line in err.splitlines() if not line.startswith(("hint: ", "There is no registry at "))]


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Become a user whom the modes of files bind, while the block runs: they do not bind root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def command(*argv: str) -> list[str]:
    """Return the words that run the command as a process of its own, from anywhere."""
    import sys

    return [sys.executable, *PROGRAM, *argv]


def copied_program(directory: Path) -> list[str]:
    """Return the words that run a copy of the program below `directory`, which a test may remove while it runs."""
    import shutil
    import sys

    root = os.path.dirname(os.path.abspath(mops_jobs.__file__))
    shutil.copytree(os.path.join(root, "mopsjobs"), directory / "mopsjobs")
    shutil.copy(os.path.join(root, "mops_jobs.py"), directory)
    return [sys.executable, str(directory / "mops_jobs.py")]


def environment(cli: Cli, **more: str) -> Mapping[str, str]:
    """Return the environment for such a process."""
    return {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", **cli.env, **more}
