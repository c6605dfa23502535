"""Recognise the replies of DynamoDB: whole ones, and its refusals. The rest is in `store.aws.errors`."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from mopsjobs.errors import MopsJobsError, StoreUnavailableError
from mopsjobs.store.aws import errors as aws
from mopsjobs.store.dynamodb.url import ENDPOINT_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Mapping


CONDITION_FAILED = "ConditionalCheckFailedException"

NO_TABLE = "ResourceNotFoundException"

TABLE_EXISTS = "ResourceInUseException"

_PERMISSIONS = (
    "Allow dynamodb:GetItem and dynamodb:Query on the table; a writer needs dynamodb:PutItem and dynamodb:DeleteItem, "
    "too. The first write needs dynamodb:CreateTable and dynamodb:DescribeTable."
)

_CHECKSUM = "x-amz-crc32"


def check_whole(status: int, headers: Mapping[str, str], body: bytes, location: str) -> None:
    """Check that a reply is a complete one of DynamoDB, which sends the length and a checksum of each reply.

    The standard library accepts incomplete headers. boto3 accepts half of a reply with status 200, or the page of a
    captive portal, as an empty reply such as "no such item".

    Raises:
        StoreUnavailableError: if it is not. After a write the outcome is unknown.
    """
    problem = ""
    checksum = headers.get(_CHECKSUM)
    if not aws.is_framed(headers):
        problem = "a reply broke off in its headers"
    elif checksum is not None and checksum != str(zlib.crc32(body)):
        problem = "a reply was damaged on its way"
    elif checksum is None and status < 300:
        problem = "the server there is not DynamoDB"
    if problem:
        raise StoreUnavailableError(f"Cannot reach {location}: {problem}.", hint=aws.network_hint(ENDPOINT_VARIABLE))


def explain(error: Exception, location: str, credential_source: str) -> MopsJobsError:
    """Return the error of the store's contract, in one sentence without secrets."""
    failure = aws.explain(error, location, credential_source, ENDPOINT_VARIABLE, _PERMISSIONS)
    if aws.error_code(error) == "ValidationException":
        failure.hint = "Use a table that mops-jobs has made."
    return failure
