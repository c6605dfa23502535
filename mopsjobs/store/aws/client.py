"""A client of boto3 that the threads of a process share. It signs in at the first use."""

from __future__ import annotations

import functools
import logging
import os
import threading
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import boto3.session
import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ConnectTimeoutError, NoCredentialsError

from mopsjobs.errors import ConfigError, StoreError
from mopsjobs.store import network
from mopsjobs.store.pacer import ReadPacer
from mopsjobs.utils.hosts import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from mopsjobs.errors import MopsJobsError


T = TypeVar("T")


# A program without logging set up would otherwise see the SDK's warnings on stderr.
logging.getLogger("botocore").addHandler(logging.NullHandler())


@functools.cache
def service_descriptions() -> Any:
    """Return what reads boto3's descriptions of services. It keeps them: to read them takes a tenth of a second."""
    return botocore.session.get_session().get_component("data_loader")


class AwsClient:
    """A client of one service. boto3 finds credentials, region and endpoint at the first use.

    Args:
        service: boto3's name of the service.
        name: the URL of the store.
        explain: turns an error into one of the store's contract, with the location and the source of the credentials.
        on_request: called with each request before it is signed, by the names of boto3's event `before-call`.
        on_reply: called with status, headers and body of each reply before boto3 parses it.
        options: settings of the client besides those that all stores have.
        options_at: returns more of them, by the URL of the endpoint.
        reply_seconds: how long a reply may take to come, or to go on.
    """

    def __init__(
        self,
        service: str,
        name: str,
        explain: Callable[[Exception, str, str], MopsJobsError],
        *,
        on_request: Callable[..., None] | None = None,
        on_reply: Callable[[Mapping[str, Any]], None] | None = None,
        options: Mapping[str, Any] | None = None,
        options_at: Callable[[str], Mapping[str, Any]] = lambda endpoint: {},
        reply_seconds: float | None = None,
    ) -> None:
        self.location = name
        """The URL of the store and, once it is known, its host."""
        self.credential_source = "the AWS settings"
        self.server_time: datetime | None = None
        """When the last reply was sent, by the server's clock; None if no reply had it."""
        self._service = service
        self._url = name
        self._explain = explain
        self._on_request = on_request
        self._on_reply = on_reply
        self._options = options or {}
        self._options_at = options_at
        self._reply_seconds = reply_seconds
        self._lock = threading.Lock()
        self._connected: Any = None
        self._closed = False
        self._pid = os.getpid()

    def connect(self) -> Any:
        """Return boto3's client of this process. To find its settings takes a third of a second, once.

        Raises:
            MopsJobsError: if the store is closed, or the settings or the name server do not allow to connect.
        """
        if self._pid != os.getpid():
            # Two processes on one connection take each other's replies. The lock is new, since a thread of the parent
            # may have held it.
            self._lock, self._connected, self._pid = threading.Lock(), None, os.getpid()
        with self._lock:
            if self._closed:
                raise StoreError(f"The store {self.location} is closed.")
            if self._connected is None:
                try:
                    self._connected = self._connect()
                except Exception as error:  # noqa: BLE001 - no error of the SDK, of whatever kind, leaves this module
                    raise self.explain(error) from None
            return self._connected

    def close(self) -> None:
        """See `VersionedStore.close`."""
        with self._lock:
            self._closed = True
            if self._connected is not None:
                self._connected.close()

    def explain(self, error: Exception) -> MopsJobsError:
        """Return the error of the store's contract, in one sentence without secrets."""
        return self._explain(error, self.location, self.credential_source)

    def _connect(self) -> Any:
        settings = botocore.session.get_session()
        settings.register_component("data_loader", service_descriptions())
        # No time in a reply is used. boto3 would fail at one that broke off, and parses times slowly.
        settings.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
        # These limits are also those of requests by which the SDK signs in.
        limits = Config(
            connect_timeout=network.BUDGET_SECONDS / 3,
            read_timeout=network.BUDGET_SECONDS * 2 / 3,
            # Reads are retried by the store, within a budget. Writes are not: after a lost reply, the second write
            # would conflict with the first.
            retries={"mode": "standard", "total_max_attempts": 1},
        )
        settings.set_default_client_config(limits)
        authorities = settings.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE")
        if authorities and not os.path.isfile(authorities):
            raise ConfigError(
                f"invalid TLS authorities '{authorities}': expected a file.",
                hint="Check AWS_CA_BUNDLE, ca_bundle in ~/.aws/config, and REQUESTS_CA_BUNDLE.",
            )
        session = boto3.session.Session(botocore_session=settings)
        credentials = session.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        source = ", ".join(filter(None, (credentials.method, session.region_name)))
        self.credential_source = f"the AWS settings ({source})"
        options: dict[str, Any] = {
            "max_pool_connections": network.POOL_CONNECTIONS,
            "user_agent_extra": network.USER_AGENT,
            **self._options,
        }
        if self._reply_seconds is not None:
            options["read_timeout"] = self._reply_seconds
        client = self._new_client(session, options)
        endpoint = client.meta.endpoint_url
        if not network.name_server_answers(endpoint, network.BUDGET_SECONDS / 3):
            raise ConnectTimeoutError(endpoint_url=endpoint)
        client.meta.events.register(f"before-parse.{self._service}", self._note_reply)
        if self._on_request is not None:
            client.meta.events.register_last(f"before-call.{self._service}", self._on_request)
        return client

    def _new_client(self, session: boto3.session.Session, options: Mapping[str, Any]) -> Any:
        """Return a client. The location then names its host.

        Raises:
            ConfigError: if the endpoint is not a URL, or if requests would be sent unencrypted.
        """
        invalid = ConfigError(
            f"invalid endpoint of {self._url}: expected https://HOST.",
            hint="Plain http is for a server on this machine only: on the way, values could be read and changed.",
        )
        try:
            client: Any = session.client(self._service, config=Config(**options))  # type: ignore[call-overload]
            if more := self._options_at(client.meta.endpoint_url):
                client.close()
                client = session.client(self._service, config=Config(**options, **more))  # type: ignore[call-overload]
            parts = urlsplit(client.meta.endpoint_url)
            self.location = f"{self._url} at {parts.netloc.rpartition('@')[2]}"
            is_private = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
            if not is_private or parts.port == 0:
                raise invalid
        except BotoCoreError:
            raise
        except ValueError:  # the endpoint is not a URL, or its port is invalid
            raise invalid from None
        return client

    def _note_reply(self, response_dict: Mapping[str, Any], **_: object) -> None:
        self.server_time = network.time_of_reply(response_dict["headers"].get("date")) or self.server_time
        if self._on_reply is not None:
            self._on_reply(response_dict)


class AwsStore(AwsClient):
    """A store in AWS: a client whose reads are paced. See `AwsClient` for the other arguments.

    Args:
        sleep: waits for a number of seconds between two attempts.
        clock: returns the seconds from any start, and never goes back.
    """

    def __init__(
        self, *client: Any, sleep: Callable[[float], None], clock: Callable[[], float], **options: Any
    ) -> None:
        super().__init__(*client, **options)
        self.pacer = ReadPacer(sleep=sleep, clock=clock)

    def _read(self, attempt: Callable[[], T], *, is_small: bool = True) -> T:
        """Call `attempt`, which sends one request that only reads, until it succeeds, as `pacer` has it."""
        self.connect()  # before the clock starts, since the budget is for the network
        return self.pacer.read(lambda _left: attempt(), self.explain, budget=network.BUDGET_SECONDS, is_small=is_small)
