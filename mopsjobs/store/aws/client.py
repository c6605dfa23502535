"""A client of boto3 that the threads of a process share, and its errors. It signs in at the first use.

The errors of boto3 become those of the store's contract, each in one sentence without secrets.
"""

from __future__ import annotations

import functools
import logging
import os
import re
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import boto3.session
import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConfigParseError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    HTTPClientError,
    IncompleteReadError,
    InvalidConfigError,
    InvalidRegionError,
    InvalidS3UsEast1RegionalEndpointConfigError,
    LoginError,
    NoCredentialsError,
    NoRegionError,
    PartialCredentialsError,
    ProfileNotFound,
    ReadTimeoutError,
    SSOError,
    TokenRetrievalError,
    WaiterError,
)
from botocore.exceptions import ConnectionError as BotoConnectionError

from mopsjobs.errors import ConfigError, MopsJobsError, StoreAccessError, StoreError, StoreUnavailableError
from mopsjobs.store import network
from mopsjobs.store.pacer import ReadPacer
from mopsjobs.utils.hosts import is_loopback

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime


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


# --- errors -----------------------------------------------------------------------------------------------------------

SIGN_IN = "Sign in with `aws sso login` or `aws configure`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."

# docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html
# docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
_BUSY = frozenset({
    "ConditionalRequestConflict", "InternalError", "InternalServerError", "LimitExceededException",
    "OperationAborted", "ProvisionedThroughputExceededException", "ReplicatedWriteConflictException",
    "RequestLimitExceeded", "RequestTimeout", "ResourceInUseException", "ResourceNotFoundException",
    "ServiceUnavailable", "SlowDown", "Throttling", "ThrottlingException", "TransactionConflictException",
})  # fmt: skip

_REFUSED = frozenset({
    "AccessDenied", "AccessDeniedException", "AccountProblem", "AllAccessDisabled", "ExpiredToken",
    "ExpiredTokenException", "IncompleteSignature", "IncompleteSignatureException", "InvalidAccessKeyId",
    "InvalidClientTokenId", "InvalidSignatureException", "InvalidToken", "MissingAuthenticationToken",
    "MissingAuthenticationTokenException", "NotAuthorized", "NotSignedUp", "OptInRequired", "RequestExpired",
    "RequestTimeTooSkewed", "SignatureDoesNotMatch", "TokenRefreshRequired", "UnrecognizedClientException",
})  # fmt: skip

_BUSY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})

_REFUSAL_HINTS = (
    (
        ("IncompleteSignature", "InvalidSignature", "SignatureDoesNotMatch"),
        "Check the secret key, the region (AWS_DEFAULT_REGION) and this machine's clock.",
    ),
    (
        ("RequestTimeTooSkewed", "RequestExpired"),
        "Synchronize this machine's clock, for example by NTP: timedatectl set-ntp true",
    ),
    (("ExpiredToken", "TokenRefreshRequired"), f"The sign-in has expired. {SIGN_IN}"),
    ("", "Check that the credentials are for this account and region, and allow this."),
)
"""By the beginnings of error codes, what to do; the first that fits counts."""

_SIGN_IN_OPERATIONS = ("AssumeRole", "CreateOAuth2Token", "CreateToken", "GetRoleCredentials")
"""The operations of AWS's sign-in services begin so. Their codes are never those of a store."""

_NO_ROLE = "ResourceNotFoundException"
"""The code of a sign-in service that does not know the account or the role."""

_ROLE = "Check role_arn or sso_role_name in ~/.aws/config, or AWS_ROLE_ARN, and whom the role trusts."

_NO_CREDENTIALS = (
    CredentialRetrievalError,
    FileNotFoundError,  # of a token or of a program that signs in: the SDK wraps the errors of its connections
    IsADirectoryError,
    LoginError,
    NoCredentialsError,
    PartialCredentialsError,
    PermissionError,
    SSOError,
    TokenRetrievalError,
)

_SETTINGS = (
    ConfigParseError,
    InvalidConfigError,
    InvalidRegionError,
    InvalidS3UsEast1RegionalEndpointConfigError,
    ProfileNotFound,
)

_OUTAGES = (HTTPClientError, BotoConnectionError, IncompleteReadError, OSError)

_TIMEOUTS = (ConnectTimeoutError, ReadTimeoutError)

_STORE_HOST = re.compile(r"(?:^|\.)(?:s3|(?:search-)?(?:ddb|dynamodb))[-.]")
"""Finds the hosts of S3 and DynamoDB in AWS. A bucket or the number of an account may be part of them."""

_ERROR_CODE = re.compile(r"[A-Za-z0-9.]{1,80}")


def network_hint(endpoint_variable: str) -> str:
    """Return the hint for a store that is out of reach."""
    return f"Check the network, and the region (AWS_DEFAULT_REGION) or {endpoint_variable}."


def is_framed(headers: Mapping[str, str]) -> bool:
    """Return whether the headers of a reply say where its body ends. The standard library accepts incomplete headers.

    Args:
        headers: by lower-case names.
    """
    return headers.get("content-length", "").isdecimal() or "chunked" in headers.get("transfer-encoding", "")


def error_code(error: Exception) -> str:
    """Return the store's error code, such as `ThrottlingException`; empty if there is none, or signing in failed."""
    return "" if _is_of_sign_in(error) else status_and_code(error)[1]


def explain(
    error: Exception, location: str, credential_source: str, endpoint_variable: str, permissions: str
) -> MopsJobsError:
    """Return the error of the store's contract, in one sentence.

    The SDK's texts are never passed on: some repeat the names of users, roles and files.

    Args:
        error: the error.
        location: the store.
        credential_source: where the credentials come from.
        endpoint_variable: the variable that sets the endpoint.
        permissions: the hint for credentials that lack one.
    """
    if isinstance(error, MopsJobsError):
        return error
    status, code = status_and_code(error)
    if not code and status < 400:
        return _error_without_reply(error, location, endpoint_variable)
    answer, signs_in = describe(status, code), _is_of_sign_in(error)
    if (code in _BUSY and not (signs_in and code == _NO_ROLE)) or status in _BUSY_STATUSES:
        problem = f"Signing in for {location} is throttled by AWS" if signs_in else f"{location} is throttling requests"
        return StoreUnavailableError(f"{problem}: {answer}.", throttled=True)
    if not (signs_in or code in _REFUSED or status in (401, 403)):
        return StoreError(f"unexpected response from {location}: {answer}.")
    hint = next(hint for beginnings, hint in _REFUSAL_HINTS if code.startswith(beginnings))
    if code.startswith("AccessDenied") or (signs_in and code not in _REFUSED):
        hint = _ROLE if signs_in else permissions
    if signs_in:  # the service for that has not seen the store
        return StoreAccessError(f"AWS refused the role in {credential_source} for {location}: {answer}.", hint=hint)
    return StoreAccessError(f"{location} refused the credentials from {credential_source}: {answer}.", hint=hint)


def describe(status: int, code: str) -> str:
    """Return the answer of a server in a few words. boto3 repeats the status if the reply had no code."""
    return f"{status or ''} {code if code != str(status) else ''}".strip()


def _is_of_sign_in(error: Exception) -> bool:
    return isinstance(error, ClientError) and error.operation_name.startswith(_SIGN_IN_OPERATIONS)


def _error_without_reply(error: Exception, location: str, endpoint_variable: str) -> MopsJobsError:
    """Return the same for an error without a reply."""
    if isinstance(error, WaiterError):
        return StoreUnavailableError(f"{location} is being created or deleted, and is not ready yet.", throttled=True)
    if isinstance(error, _NO_CREDENTIALS):
        files = "Check AWS_WEB_IDENTITY_TOKEN_FILE, and credential_process in ~/.aws/config."
        hint = files if isinstance(error, OSError) else SIGN_IN
        return StoreAccessError(f"There are no usable AWS credentials for {location}.", hint=hint)
    if isinstance(error, NoRegionError):
        return StoreAccessError(
            f"No setting names the AWS region of {location}.", hint="Set AWS_DEFAULT_REGION, or run `aws configure`."
        )
    if isinstance(error, _SETTINGS):
        return ConfigError(
            f"The AWS settings for {location} are invalid: {type(error).__name__}.",
            hint=f"Check AWS_PROFILE, AWS_DEFAULT_REGION, {endpoint_variable} and ~/.aws/config.",
        )
    if isinstance(error, _OUTAGES):
        host = _other_host(error, location)
        failure = network.unavailable(error, f"{host} for {location}" if host else location, _TIMEOUTS)
        elsewhere = "Check the network, and region and sso_region in ~/.aws/config."
        failure.hint = elsewhere if host else network_hint(endpoint_variable)
        return failure
    return StoreError(f"unexpected response from {location}: {type(error).__name__}.")


def _other_host(error: Exception, location: str) -> str:
    """Return the host that did not answer, such as one of AWS's sign-in. Return an empty text for one of the store."""
    host = urlsplit(str(getattr(error, "kwargs", {}).get("endpoint_url", ""))).netloc.rpartition("@")[2]
    store_host = location.rpartition(" at ")[2]
    is_store = host == store_host or host.endswith(f".{store_host}") or _STORE_HOST.search(host)
    return "" if is_store else host


def status_and_code(error: Exception) -> tuple[int, str]:
    """Return the status of the reply and AWS's error code; 0 and an empty text if there was no reply."""
    reply: dict[str, Any] = {}
    if isinstance(error, ClientError):
        reply = dict(error.response)
    elif isinstance(error, WaiterError):
        reply = dict(error.last_response)
    code = str(reply.get("Error", {}).get("Code", ""))
    status = int(reply.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return status, code if _ERROR_CODE.fullmatch(code) else ""
