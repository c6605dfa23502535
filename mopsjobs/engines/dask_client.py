"""The one way to a Dask scheduler: is its URL one, is the library here, does it answer.

A client runs in a process that has none of the secrets of the registry, and in no other; see `engines.child`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import sys
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mopsjobs.engines.child_process import Channel, Child, serving
from mopsjobs.engines.model_env import SECRET_VARIABLES
from mopsjobs.errors import EngineError, EngineUnavailableError, UsageError

if TYPE_CHECKING:
    from distributed import Client

CONNECT_SECONDS = 4.0
"""How long a scheduler may take to answer: a command fails within 5 seconds when the network is gone."""

START_SECONDS = 20.0
"""How long its process may take besides, to start and to import the library."""

VARIABLE = "DASK_SCHEDULER_ADDRESS"
"""Where Dask's own users put the address."""

_URL = re.compile(r"(tcp|tls|ws|wss)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):(\d{1,5})/?", re.ASCII)


def scheduler_url(given: str | None, env: Mapping[str, str]) -> str:
    """The scheduler's address: what was given, else that of the environment.

    Raises:
        UsageError: there is none, or it is no address of a scheduler. One with a password is none: addresses are kept
            in records; certificates for `tls://` come from Dask's own configuration.
    """
    url = given or env.get(VARIABLE)
    if not url:
        raise UsageError(
            "The dask engine needs a scheduler.", hint=f"Give --scheduler tcp://HOST:PORT, or set {VARIABLE}."
        )
    words = _URL.fullmatch(url)
    if words is None or not 0 < int(words[3]) < 65536:
        # What follows such a mark may be a token; an address has none of them.
        shown = "with a name or password in it" if "@" in url else repr(re.split("[?#;=]", url)[0][:100])
        raise UsageError(f"A scheduler's address is like tcp://HOST:8786, not {shown}.")
    return url.rstrip("/")


def check_installed() -> None:
    """Look whether the library is here, without importing it.

    Raises:
        UsageError: it is not.
    """
    if importlib.util.find_spec("distributed") is None:
        raise UsageError(
            "The dask engine needs the package distributed, which this Python does not have.",
            hint=f"Get it in the version of your cluster: {sys.executable} -m pip install distributed",
        )


def check_scheduler(url: str, env: Mapping[str, str]) -> None:
    """Look whether a scheduler answers, from a process without our secrets.

    Raises:
        EngineError: if the library is not installed, or the two do not understand each other.
        EngineUnavailableError: if nothing answers there in time.
    """
    check_installed()
    child = Child(__name__, {"scheduler": url}, env)
    try:
        if child.hear(CONNECT_SECONDS + START_SECONDS) is None:
            raise EngineUnavailableError(f"The Dask scheduler {url} does not answer in time.")
    finally:
        child.close()


def main() -> None:
    """The process behind `check_scheduler`."""
    channel = Channel()
    with serving(channel):
        connect(channel.hear()["scheduler"]).close()
        channel.say({"answers": True})


def connect(url: str) -> Client:
    """A client of the scheduler. Close it.

    Raises:
        EngineError: the library is not installed, or the two do not understand each other; or this process holds
            secrets, which what the scheduler says could take.
        EngineUnavailableError: nothing answers there in time.
    """
    check_installed()
    if SECRET_VARIABLES & os.environ.keys():
        raise EngineError("A Dask client may not run in a process that holds secrets of the registry.")
    from distributed import Client

    # What it has to say of a connection that fails or ends, we say in a sentence of ours.
    for name in ("distributed.client", "distributed.comm", "distributed.core", "distributed.batched"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # versions that differ, which matters only if something fails
            return Client(url, timeout=CONNECT_SECONDS, set_as_default=False, name="mops-jobs")
    except (OSError, TimeoutError) as error:
        raise EngineUnavailableError(
            f"The Dask scheduler {url} does not answer: {_last(error)}.", hint="Is it running, and is that its address?"
        ) from None
    except Exception as error:  # noqa: BLE001 - certificates, versions: the library has no common kind of error
        raise EngineError(
            f"The Dask scheduler {url} cannot be used: {type(error).__name__}: {_last(error)}.",
            hint="Is the version of distributed here that of the cluster?",
        ) from None


def _last(error: BaseException) -> str:
    """The first line of the innermost reason, which is the one that tells something."""
    while error.__cause__ is not None:
        error = error.__cause__
    with contextlib.suppress(IndexError):
        return str(error).splitlines()[0].rstrip(".")
    return type(error).__name__
