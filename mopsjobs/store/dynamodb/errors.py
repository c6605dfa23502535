"""Turn the errors of boto3 into those of the store's contract, each in one sentence without secrets."""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, Any

from botocore.exceptions import (
    ClientError,
    ConfigParseError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    HTTPClientError,
    InvalidRegionError,
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

if TYPE_CHECKING:
    from collections.abc import Mapping


CONDITION_FAILED = "ConditionalCheckFailedException"

NO_TABLE = "ResourceNotFoundException"

TABLE_EXISTS = "ResourceInUseException"

NETWORK_HINT = "Check the network, and the region (AWS_DEFAULT_REGION) or AWS_ENDPOINT_URL_DYNAMODB."

SIGN_IN = "Sign in with `aws sso login` or `aws configure`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY."

# docs.aws.amazon.com/amazondynamodb/latest/developerguide/Programming.Errors.html
_BUSY = frozenset({
    "InternalServerError", "LimitExceededException", "ProvisionedThroughputExceededException",
    "ReplicatedWriteConflictException", "RequestLimitExceeded", "RequestTimeout", "ServiceUnavailable", "Throttling",
    "ThrottlingException", "TransactionConflictException", NO_TABLE, TABLE_EXISTS,
})  # fmt: skip

_REFUSED = frozenset({
    "AccessDenied", "AccessDeniedException", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature",
    "IncompleteSignatureException", "InvalidClientTokenId", "InvalidSignatureException", "MissingAuthenticationToken",
    "MissingAuthenticationTokenException", "NotAuthorized", "OptInRequired", "SignatureDoesNotMatch",
    "UnrecognizedClientException",
})  # fmt: skip

_BUSY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})

_SIGNATURES = ("IncompleteSignature", "InvalidSignature", "SignatureDoesNotMatch")

_NO_CREDENTIALS = (
    CredentialRetrievalError,
    LoginError,
    NoCredentialsError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)

_SETTINGS = (ConfigParseError, InvalidRegionError, ProfileNotFound)

_SETTINGS_HINT = "Check AWS_PROFILE, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL_DYNAMODB and ~/.aws/config."

_OUTAGES = (HTTPClientError, BotoConnectionError, OSError)

_TIMEOUTS = (ConnectTimeoutError, ReadTimeoutError)

_CHECKSUM = "x-amz-crc32"

_ERROR_CODE = re.compile(r"[A-Za-z0-9.]{1,80}")


def check_whole(status: int, headers: Mapping[str, str], body: bytes, location: str) -> None:
    """Check that a reply is a complete one of DynamoDB, which sends the length and a checksum of each reply.

    The standard library accepts incomplete headers. boto3 accepts half of a reply with status 200, or the page of a
    captive portal, as an empty reply such as "no such item".

    Raises:
        StoreUnavailableError: if it is not. After a write the outcome is unknown.
    """
    problem = ""
    checksum = headers.get(_CHECKSUM)
    is_framed = headers.get("content-length", "").isdecimal() or "chunked" in headers.get("transfer-encoding", "")
    if not is_framed:
        problem = "a reply broke off in its headers"
    elif checksum is not None and checksum != str(zlib.crc32(body)):
        problem = "a reply was damaged on its way"
    elif checksum is None and status < 300:
        problem = "the server there is not DynamoDB"
    if problem:
        raise StoreUnavailableError(f"Cannot reach {location}: {problem}.", hint=NETWORK_HINT)


def error_code(error: Exception) -> str:
    """Return AWS's error code, such as `ThrottlingException`; empty if there is none."""
    return _status_and_code(error)[1]


def explain(error: Exception, location: str, credential_source: str) -> MopsJobsError:
    """Return the error of the store's contract, in one sentence.

    The SDK's texts are never passed on: some repeat the names of users, roles and files.
    """
    if isinstance(error, MopsJobsError):
        return error
    status, code = _status_and_code(error)
    if not code and status < 400:
        return _error_without_reply(error, location)
    answer = f"{status or ''} {code}".strip()
    if code in _REFUSED or status in (401, 403):
        hint = "Check that they are for this account and region, and allow this."
        if code.startswith(_SIGNATURES):
            hint = "Check the secret key, the region (AWS_DEFAULT_REGION) and this machine's clock."
        return StoreAccessError(f"{location} refused the credentials from {credential_source}: {answer}.", hint=hint)
    if code in _BUSY or status in _BUSY_STATUSES:
        return StoreUnavailableError(f"{location} is throttling requests: {answer}.", throttled=True)
    hint = "Use a table that mops-jobs has made." if code == "ValidationException" else ""
    return StoreError(f"unexpected response from {location}: {answer}.", hint=hint or None)


def _error_without_reply(error: Exception, location: str) -> MopsJobsError:
    """Return the same for an error without a reply."""
    if isinstance(error, WaiterError):
        return StoreUnavailableError(f"{location} is being created or deleted, and is not ready yet.", throttled=True)
    if isinstance(error, _NO_CREDENTIALS):
        return StoreAccessError(f"There are no usable AWS credentials for {location}.", hint=SIGN_IN)
    if isinstance(error, NoRegionError):
        return StoreAccessError(
            f"No setting names the AWS region of {location}.", hint="Set AWS_DEFAULT_REGION, or run `aws configure`."
        )
    if isinstance(error, _SETTINGS):
        return ConfigError(f"The AWS settings for {location} are invalid: {type(error).__name__}.", hint=_SETTINGS_HINT)
    if isinstance(error, _OUTAGES):
        failure = unavailable(error, location, _TIMEOUTS)
        failure.hint = NETWORK_HINT
        return failure
    return StoreError(f"unexpected response from {location}: {type(error).__name__}.")


def _status_and_code(error: Exception) -> tuple[int, str]:
    """Return the status of the reply and AWS's error code; 0 and an empty text if there was no reply."""
    reply: dict[str, Any] = {}
    if isinstance(error, ClientError):
        reply = dict(error.response)
    elif isinstance(error, WaiterError):
        reply = dict(error.last_response)
    code = str(reply.get("Error", {}).get("Code", ""))
    status = int(reply.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return status, code if _ERROR_CODE.fullmatch(code) else ""
