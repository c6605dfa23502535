"""The environment of a model, noted once per job: its interpreter, its packages, and the mops-jobs of its runner.

A note lies at `environments/<job_id>/<digest>.json`. Its name has the digest of its content. So all shards with
the same environment share one note, and a restart with other packages adds another. Notes are never
changed, and stay like the manifest. No note has a variable, a path, a command or a host: only what `Environment` names.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from mopsjobs.errors import RecordError, StoreUnavailableError
from mopsjobs.registry.job_id import check_job_id
from mopsjobs.registry.keys import ENVIRONMENT, belongs_to
from mopsjobs.store.base import VersionedStore
from mopsjobs.utils.backoff import LOOK_SECONDS, sleep_unless
from mopsjobs.utils.files import replace_file
from mopsjobs.utils.json_strict import read_json
from mopsjobs.utils.text import strip_control_characters
from mopsjobs.version import __version__

VERSION = 1

MAX_NOTES = 20
"""Notes of a job that are read. Every writer of the registry can add some."""

MAX_PACKAGES = 5_000

MAX_CHARACTERS = 100
"""Of a name or a version."""

MAX_BYTES = 2**20
"""Of a note that is read."""


class Environment(NamedTuple):
    """The environment of a model. What is unknown is None."""

    python: str | None
    """The version of the interpreter, for example `3.12.4`."""
    implementation: str | None
    """The kind of the interpreter, for example `cpython`."""
    platform: str | None
    """System and processor, for example `linux-x86_64`."""
    libc: str | None
    """The C library, for example `glibc 2.36`."""
    mops_jobs: str | None
    """The version of the runner."""
    packages: Mapping[str, str]
    """Names of installed packages, as PyPI compares them, with their versions; empty if a version is unknown."""

    def to_json(self) -> dict[str, object]:
        """Return the environment in its JSON form."""
        return {**self._asdict(), "packages": dict(self.packages)}

    def digest(self) -> str:
        """Return a digest of what makes other results: the interpreter, up to its minor version, and the packages."""
        version = ".".join((self.python or "").split(".")[:2])
        text = json.dumps([self.implementation, version, dict(self.packages)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def from_json(cls, value: object) -> Environment:
        """Decode what a worker or a note says. What is not valid is None, or left out.

        Raises:
            RecordError: if it is not an object.
        """
        if not isinstance(value, Mapping):
            raise RecordError("not an environment: expected an object")
        python, implementation, platform, libc, mops_jobs = (_text(value.get(name)) for name in cls._fields[:-1])
        found = value.get("packages")
        items = sorted(found.items())[:MAX_PACKAGES] if isinstance(found, Mapping) else []
        packages = {
            normalise_name(text): _text(version) or ""
            for name, version in items
            if (text := _text(name)) and not text.startswith("~")  # pip renames so what it is removing
        }
        return cls(python, implementation, platform, libc, mops_jobs, packages)


def environment_of_worker(answer: object) -> Environment:
    """Return the environment that a worker describes, as run by this version of mops-jobs.

    Raises:
        RecordError: if the answer is not an object.
    """
    return Environment.from_json(answer)._replace(mops_jobs=__version__)


def encode_environment(job_id: str, environment: Environment) -> tuple[str, bytes]:
    """Return key and bytes of a note."""
    document = {"version": VERSION, **environment.to_json()}
    value = json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")
    return ENVIRONMENT.key(job=check_job_id(job_id), note=hashlib.sha256(value).hexdigest()[:16]), value


def environments_prefix(job_id: str) -> str:
    """Return the prefix of the notes of a job."""
    return ENVIRONMENT.prefix_of(check_job_id(job_id))


def environment_keys(store: VersionedStore, job_id: str) -> Iterator[str]:
    """Yield the keys of the notes of a job, the first `MAX_NOTES`.

    Raises:
        StoreError: if the listing failed.
    """
    listed = store.list_keys(environments_prefix(job_id))
    return islice((key for key in listed if belongs_to(key, job_id, [ENVIRONMENT])), MAX_NOTES)


def parse_environment(value: bytes) -> Environment:
    """Decode a note.

    Raises:
        RecordError: if it is not a note, or only a newer version can read it.
    """
    if len(value) > MAX_BYTES:
        raise RecordError(f"too large: {len(value):,} bytes, expected at most {MAX_BYTES:,}")
    document = read_json(value)
    if not isinstance(document, Mapping) or document.get("version") != VERSION:
        raise RecordError(f"not an environment of a model: expected an object of version {VERSION}")
    return Environment.from_json(document)


def normalise_name(name: str) -> str:
    """Return the name of a package as PyPI compares it: `Foo_Bar` is `foo-bar`."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _text(value: object) -> str | None:
    return strip_control_characters(value[:MAX_CHARACTERS]) if isinstance(value, str) and value else None


log = logging.getLogger(__name__)

DESCRIPTION_SECONDS = 90.0
"""How long to wait for a description, at most: longer than its process may take. It takes a tenth of a second, but on a
busy network drive many. Without it, checkpoints would count as those of other packages."""

STOP_SECONDS = 5.0
"""The same at the end of a run that was told to stop."""


@dataclasses.dataclass
class EnvironmentNotes:
    """The notes of one run, each environment once.

    Args:
        _job_id: the job.
        _store: where the notes go. They do not go by the sender of outputs: what it refuses ends the job.
        _outbox: where a note waits if the store does not answer.
        _path: takes the digest of `packages` for the next run; None: no run asks.
    """

    _job_id: str
    _store: VersionedStore
    _outbox: VersionedStore
    _path: Path | None = None

    def __post_init__(self) -> None:
        self._threads: list[threading.Thread] = []
        self._packages: str | None = None
        self._is_described = threading.Event()

    def describe(self, describe: Callable[[], object]) -> None:
        """Call a function in a thread, and note what it returns.

        Args:
            describe: returns what an interpreter says about itself; None if it says nothing.
        """

        def note() -> None:
            try:
                self._note(describe())
            finally:
                self._is_described.set()

        thread = threading.Thread(target=note, daemon=True)
        self._threads.append(thread)
        thread.start()

    def note(self, answer: object) -> None:
        """Note what an interpreter says about itself."""
        self.describe(lambda: answer)

    def packages(self) -> str | None:
        """Return the digest of the interpreter's kind and version, without its last part, and of all packages.

        It waits for the description, but not for the store. None if there is none.
        """
        if self._threads:
            self._is_described.wait(DESCRIPTION_SECONDS)
        return self._packages

    def close(self, is_stopping: Callable[[], bool] = lambda: False) -> None:
        """Wait for the notes that are under way, from when on `is_stopping()` less long. Closing twice is harmless."""

        def is_over() -> bool:
            return is_stopping() or not any(thread.is_alive() for thread in self._threads)

        def join(seconds: float) -> None:
            for thread in self._threads:
                thread.join(seconds)

        sleep_unless(is_over, DESCRIPTION_SECONDS - STOP_SECONDS, join, LOOK_SECONDS)
        join(STOP_SECONDS)

    def _note(self, answer: object) -> None:
        try:
            if answer is not None:
                environment = environment_of_worker(answer)
                if self._packages is None:
                    self._packages = environment.digest()
                    if self._path is not None:
                        replace_file(str(self._path), self._packages.encode())
                self._is_described.set()
                key, value = encode_environment(self._job_id, environment)
                try:
                    self._store.create_if_absent(key, value)
                except StoreUnavailableError:
                    self._outbox.create_if_absent(key, value)
        except Exception as error:  # noqa: BLE001 - no error of a note may stop the job
            log.info("The environment of the model is not noted: %s", error)
