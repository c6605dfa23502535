"""What goes wrong between `DynamoDBVersionedStore` and AWS, told in the words of the store's contract."""

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


LOOK_HINT = "Look at the network, and at the region (AWS_DEFAULT_REGION) or AWS_ENDPOINT_URL_DYNAMODB."


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


_SETTINGS_HINT = "Look at AWS_PROFILE, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL_DYNAMODB and ~/.aws/config."


_OUTAGES = (HTTPClientError, BotoConnectionError, OSError)


_SILENCES = (ConnectTimeoutError, ReadTimeoutError)


_CHECKSUM = "x-amz-crc32"


_ERROR_CODE = re.compile(r"[A-Za-z0-9.]{1,80}")


def check_whole(status: int, headers: Mapping[str, str], body: bytes, location: str) -> None:
    """Look whether a reply is one of DynamoDB's, and all of it.

    The standard library takes what has come of the headers of a broken reply for all of them, and boto3 takes whatever
    came with a 200 for a reply that has nothing to say, such as "no such item": half of one, or the page of a captive
    portal. But DynamoDB sends the length and a checksum of each reply.

    Raises:
        StoreUnavailableError: it is not. After a write nobody knows whether that has landed.
    """
    problem = ""
    told = headers.get(_CHECKSUM)
    is_framed = headers.get("content-length", "").isdecimal() or "chunked" in headers.get("transfer-encoding", "")
    if not is_framed:
        problem = "a reply broke off in its headers"
    elif told is not None and told != str(zlib.crc32(body)):
        problem = "a reply was damaged on its way"
    elif told is None and status < 300:
        problem = "what answers there is not DynamoDB"
    if problem:
        raise StoreUnavailableError(f"Cannot reach {location}: {problem}.", hint=LOOK_HINT)


def error_code(error: Exception) -> str:
    """AWS's own word for what is wrong, such as `ThrottlingException`; empty when there is none."""
    return _answer(error)[1]


def explain(error: Exception, location: str, credential_source: str) -> MopsJobsError:
    """The error of the store's contract that `error` amounts to, in one sentence.

    The SDK's texts are never passed on: some repeat the names of users, roles and files.
    """
    if isinstance(error, MopsJobsError):
        return error
    status, code = _answer(error)
    if not code and status < 400:
        return _unanswered(error, location)
    answer = f"{status or ''} {code}".strip()
    if code in _REFUSED or status in (401, 403):
        hint = "Either they are not for this account and region, or they do not allow this."
        if code.startswith(_SIGNATURES):
            hint = "Look at the secret key, the region (AWS_DEFAULT_REGION) and this machine's clock."
        return StoreAccessError(f"{location} refused the credentials from {credential_source}: {answer}.", hint=hint)
    if code in _BUSY or status in _BUSY_STATUSES:
        return StoreUnavailableError(f"{location} asks to be tried again later: {answer}.", throttled=True)
    hint = "Is it a table that mops-jobs made?" if code == "ValidationException" else ""
    return StoreError(f"{location} gave an answer that mops-jobs cannot use: {answer}.", hint=hint or None)


def _unanswered(error: Exception, location: str) -> MopsJobsError:
    """The same for what went wrong without an answer to our request."""
    if isinstance(error, WaiterError):
        return StoreUnavailableError(f"{location} is being created or deleted, and is not ready yet.", throttled=True)
    if isinstance(error, _NO_CREDENTIALS):
        return StoreAccessError(f"There are no usable AWS credentials for {location}.", hint=SIGN_IN)
    if isinstance(error, NoRegionError):
        return StoreAccessError(
            f"Nothing says which AWS region {location} is in.", hint="Set AWS_DEFAULT_REGION, or `aws configure`."
        )
    if isinstance(error, _SETTINGS):
        return ConfigError(
            f"The AWS settings for {location} cannot be used: {type(error).__name__}.", hint=_SETTINGS_HINT
        )
    if isinstance(error, _OUTAGES):
        failure = unavailable(error, location, _SILENCES)
        failure.hint = LOOK_HINT
        return failure
    return StoreError(f"{location} gave an answer that mops-jobs cannot use: {type(error).__name__}.")


def _answer(error: Exception) -> tuple[int, str]:
    """The status of the reply and AWS's word in it; 0 and an empty word when there was none."""
    reply: dict[str, Any] = {}
    if isinstance(error, ClientError):
        reply = dict(error.response)
    elif isinstance(error, WaiterError):
        reply = dict(error.last_response)
    code = str(reply.get("Error", {}).get("Code", ""))
    status = int(reply.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    return status, code if _ERROR_CODE.fullmatch(code) else ""
