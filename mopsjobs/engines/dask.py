"""Connect to a Dask scheduler, from a child process without the parent's secrets, which exchanges JSON with it.

A Dask client unpickles messages of its scheduler, and a pickle may run any code. In a child process, that code finds no
secret in its environment, and the parent reads JSON only. The child runs as the same user, so this does not hold off a
hostile scheduler. See docs/decisions/0013-dask-by-source-text.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from multiprocessing.connection import Connection, Pipe
from typing import TYPE_CHECKING, Any

from mopsjobs.engines.base import Launch, LaunchResult
from mopsjobs.engines.local import LocalEngine
from mopsjobs.engines.model_env import is_secret, without_secrets
from mopsjobs.errors import (
    IF_PIP_REFUSES,
    EngineError,
    EngineUnavailableError,
    MopsJobsError,
    UsageError,
    command_line,
)

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 4.0
"""How long a scheduler may take to answer: a command fails within 5 seconds when the network is gone."""

START_SECONDS = 60.0
"""How long the child process may take to start and to import the library, from a busy network drive too."""

SCHEDULER_VARIABLE = "DASK_SCHEDULER_ADDRESS"
"""The variable of Dask for the address."""

_URL = re.compile(r"(tcp|tls|ws|wss)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})/?", re.ASCII)


def scheduler_url(address: str | None, env: Mapping[str, str]) -> str:
    """Return the address of the scheduler: `address`, else that of the environment.

    An address with a password is refused, since records keep it. Certificates for `tls://` come from Dask's own
    configuration.

    Raises:
        UsageError: if there is no address, or it is invalid.
    """
    url = address or env.get(SCHEDULER_VARIABLE)
    if not url:
        raise UsageError(
            "The dask engine needs a scheduler.", hint=f"Give --scheduler tcp://HOST:PORT, or set {SCHEDULER_VARIABLE}."
        )
    words = _URL.fullmatch(url)
    if words is None or not 0 < int(words[3]) < 65536:
        # The part after such a mark may be a token; a valid address has none of these marks.
        quoted = "" if "@" in url else f" {re.split('[?#;=]', url)[0][:100]!r}"
        raise UsageError(f"invalid scheduler{quoted}: expected an address like tcp://HOST:8786, without a password.")
    return url.rstrip("/")


def check_installed() -> None:
    """Check that the library is installed, without importing it.

    Raises:
        UsageError: if it is not.
    """
    if importlib.util.find_spec("distributed") is None:
        raise UsageError(
            "The dask engine needs the package distributed, which this Python does not have.",
            hint=f"Install the version of the cluster: {sys.executable} -m pip install distributed. {IF_PIP_REFUSES}",
        )


MAX_MESSAGE_BYTES = 2**30
"""Length of a message, at most."""

GRACE_SECONDS = 10.0
"""How long a child may take to end when its pipe is closed: it first cancels its tasks on the cluster."""

_START = (
    "import sys, json, importlib; sys.path[:] = json.loads(sys.argv[2]); importlib.import_module(sys.argv[1]).main()"
)


def resume_hint() -> str:
    """Return the hint if the child has ended."""
    return f"Run the job again; it continues where it was: {command_line('resume')}"


class Child:
    """The child process, as its parent sees it."""

    def __init__(self, module: str, setup: Mapping[str, object], env: Mapping[str, str]) -> None:
        """Start the process.

        Args:
            module: the module whose `main` it runs.
            setup: its first message.
            env: the environment of the parent; the child gets it without secrets.
        """
        self._pipe, theirs = Pipe()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-P", "-c", _START, module, json.dumps(sys.path), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=2,  # prints of libraries
                pass_fds=[theirs.fileno()],
                env=without_secrets(env),
                start_new_session=True,  # Ctrl-C reaches the parent, which closes the pipe
            )
        try:
            self.send(setup)
        except BaseException:
            self.close()
            raise

    def send(self, message: Mapping[str, object]) -> None:
        """Send a message.

        Raises:
            EngineUnavailableError: if the process has ended.
        """
        try:
            self._pipe.send_bytes(json.dumps(message).encode())
        except ConnectionError:
            raise self._ended_error() from None

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """Return the next message; None if none comes within `seconds`.

        Raises:
            EngineUnavailableError: if the process has ended.
            EngineError: if the process sent something else than a message, or reports an error.
        """
        try:
            message = json.loads(self._pipe.recv_bytes(MAX_MESSAGE_BYTES)) if self._pipe.poll(seconds) else None
        except (EOFError, ConnectionError):
            raise self._ended_error() from None
        except (OSError, ValueError, RecursionError):
            message = ()
        if message is not None and not isinstance(message, dict):
            raise EngineError("unexpected response from the process that talks to Dask.")
        if message is not None and isinstance(failed := message.get("failed"), dict):
            kind = EngineUnavailableError if failed.get("unavailable") else EngineError
            hint = failed.get("hint")
            raise kind(str(failed.get("message")), hint=None if hint is None else str(hint))
        return message

    def close(self) -> None:
        """Close the pipe, and wait for the process to end; kill it if it does not."""
        self._pipe.close()
        try:
            self._process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _ended_error(self) -> EngineUnavailableError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(GRACE_SECONDS)
        return EngineUnavailableError(
            f"The process that talks to Dask has ended (exit code {self._process.returncode}).",
            hint=resume_hint(),
        )


class Parent:
    """The pipe to the parent, in the child process."""

    def __init__(self) -> None:
        self._pipe = Connection(int(sys.argv[3]))

    def send(self, message: Mapping[str, object]) -> None:
        """Send a message.

        Raises:
            EOFError: if the parent has closed the pipe.
        """
        try:
            self._pipe.send_bytes(json.dumps(message).encode())
        except ConnectionError:
            raise EOFError from None

    def receive(self) -> dict[str, Any]:
        """Return the next message.

        Raises:
            EOFError: if the parent has closed the pipe.
        """
        try:
            message: dict[str, Any] = json.loads(self._pipe.recv_bytes())
        except ConnectionError:
            raise EOFError from None
        return message

    def is_over(self) -> bool:
        """Return True if the parent has closed the pipe. Call it only between an answer and the next question."""
        return self._pipe.poll()


@contextlib.contextmanager
def run_as_child(parent: Parent) -> Iterator[None]:
    """Run the block, send its error to the parent, and end this process."""
    try:
        with contextlib.suppress(EOFError):
            try:
                yield
            except MopsJobsError as error:
                is_outage = isinstance(error, EngineUnavailableError)
                parent.send({"failed": {"message": error.message, "hint": error.hint, "unavailable": is_outage}})
    except BaseException:  # noqa: BLE001 - printed as Python does, before the process ends
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)  # threads of the library may still run


def check_scheduler(url: str, env: Mapping[str, str]) -> None:
    """Check that a scheduler answers, in a child process without secrets.

    Raises:
        UsageError: if the library is not installed.
        EngineError: if the versions of scheduler and library do not fit.
        EngineUnavailableError: if the scheduler does not answer in time.
    """
    check_installed()
    child = Child(__name__, {"scheduler": url}, env)
    try:
        if child.receive(CONNECT_SECONDS + START_SECONDS) is None:
            raise EngineUnavailableError(f"The Dask scheduler {url} does not answer in time.")
    finally:
        child.close()


def main() -> None:
    """Run the child process of `check_scheduler`."""
    parent = Parent()
    with run_as_child(parent):
        connect(parent.receive()["scheduler"], CONNECT_SECONDS).close()
        parent.send({"answers": True})


def connect(url: str, seconds: float) -> Client:
    """Return a client of the scheduler, to be closed by the caller. The scheduler has to answer within `seconds`.

    Raises:
        UsageError: if the library is not installed.
        EngineError: if the versions of scheduler and library do not fit, or if the environment of this process has
            secrets, which the scheduler could read.
        EngineUnavailableError: if the scheduler does not answer in time.
    """
    check_installed()
    if any(map(is_secret, os.environ)):
        raise EngineError("A Dask client may not run in a process that holds secrets.")
    from distributed import Client

    # mops-jobs reports a failed or lost connection itself, in one sentence.
    for name in ("distributed.client", "distributed.comm", "distributed.core", "distributed.batched"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of versions that differ: that matters only if something fails
            return Client(url, timeout=seconds, set_as_default=False, name="mops-jobs")
    except (OSError, TimeoutError) as error:
        raise EngineUnavailableError(
            f"The Dask scheduler {url} does not answer: {_root_cause(error)}.",
            hint="Check that it is running, and that this is its address.",
        ) from None
    except Exception as error:  # noqa: BLE001 - certificates, versions: the library has no common base class of errors
        raise EngineError(
            f"The Dask scheduler {url} cannot be used: {type(error).__name__}: {_root_cause(error)}.",
            hint="Check that this Python and the cluster have the same version of distributed.",
        ) from None


def _root_cause(error: BaseException) -> str:
    """Return the first line of the innermost cause, which is the specific one."""
    while error.__cause__ is not None:
        error = error.__cause__
    with contextlib.suppress(IndexError):
        return str(error).splitlines()[0].rstrip(".")
    return type(error).__name__


class DaskEngine(LocalEngine):
    """Launches a runner whose tasks run on a Dask cluster. Takes the option `scheduler`."""

    name = "dask"

    def launch(self, launch: Launch) -> LaunchResult:
        """See `Engine.launch`.

        Raises:
            UsageError: if neither the option `scheduler` nor the environment has a valid address.
        """
        url = scheduler_url(launch.options.get("scheduler"), self._env)
        check_scheduler(url, self._env)
        return super().launch(dataclasses.replace(launch, options={**launch.options, "scheduler": url}))
