"""Turn the errors of boto3 into those of the store's contract, each in one sentence without secrets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import (
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
from mopsjobs.store.network import unavailable

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
        failure = unavailable(error, f"{host} for {location}" if host else location, _TIMEOUTS)
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
