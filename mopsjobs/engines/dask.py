"""Connect to a Dask scheduler: check its URL, the library, and that it answers.

A client may only run in a process without the secrets of the registry; see `engines.child_process`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import logging
import os
import re
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mopsjobs.engines.base import Launch, LaunchResult
from mopsjobs.engines.child_process import Child, ParentStreams, run_as_child
from mopsjobs.engines.local import LocalEngine
from mopsjobs.engines.model_env import is_secret
from mopsjobs.errors import IF_PIP_REFUSES, EngineError, EngineUnavailableError, UsageError

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 4.0
"""How long a scheduler may take to answer: a command fails within 5 seconds when the network is gone."""

START_SECONDS = 20.0
"""How long the child process may take to start and to import the library."""

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
    parent = ParentStreams()
    with run_as_child(parent):
        connect(parent.receive()["scheduler"]).close()
        parent.send({"answers": True})


def connect(url: str) -> Client:
    """Return a client of the scheduler, to be closed by the caller.

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
            return Client(url, timeout=CONNECT_SECONDS, set_as_default=False, name="mops-jobs")
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
