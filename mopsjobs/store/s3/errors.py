"""Recognise the refusals of S3 that say more than those of other services. The rest is in `store.aws.errors`."""

from __future__ import annotations

from mopsjobs.errors import InvalidKeyError, MopsJobsError, StoreAccessError, StoreError, UnusableStoreError
from mopsjobs.store.aws import errors as aws
from mopsjobs.store.s3.url import ENDPOINT_VARIABLE

NO_KEY = "NoSuchKey"

LOST = "PreconditionFailed"

ARCHIVED = "InvalidObjectState"

NOT_IMPLEMENTED = 501
"""The status of a server that does not know a header, such as a condition."""

_OVERLAPPED = frozenset({"ConditionalRequestConflict", "OperationAborted"})

_NO_BUCKET = frozenset({"InvalidBucketName", "NoSuchBucket"})

_OTHER_REGION = frozenset({
    "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "PermanentRedirect", "TemporaryRedirect",
})  # fmt: skip

_PERMISSIONS = (
    "Allow s3:ListBucket on the bucket and s3:GetObject on its objects; a writer needs s3:PutObject and "
    "s3:DeleteObject, too. Without s3:ListBucket, S3 refuses reads of missing keys. If a KMS key encrypts the bucket, "
    "allow kms:Decrypt and kms:GenerateDataKey."
)

_NO_CONDITIONS = "Use a server that supports If-None-Match and If-Match in PutObject."

_KMS_KEY = "Check the state of the key with its owner."

_RESTORE = (
    "Restore it, for example by `aws s3api restore-object`. Then exempt the registry from the rules of the bucket that "
    "archive objects."
)


def is_missing_key(error: Exception) -> bool:
    """Return whether a read, or a write to one version, found no such key.

    The status alone would not do: a missing bucket has the same, and so has the page of a proxy.
    """
    return aws.error_code(error) == NO_KEY


def has_lost(error: Exception) -> bool:
    """Return whether the condition of a write does not hold."""
    return aws.error_code(error) == LOST


def has_overlapped(error: Exception) -> bool:
    """Return whether a write was refused since another one was in progress. Nothing was written."""
    status, code = aws.status_and_code(error)
    return status == 409 and code in _OVERLAPPED


def is_not_implemented(error: Exception) -> bool:
    """Return whether a server does not know a header of the request. It has done nothing."""
    return aws.status_and_code(error)[0] == NOT_IMPLEMENTED


def explain(error: Exception, location: str, credential_source: str) -> MopsJobsError:
    """Return the error of the store's contract, in one sentence without secrets."""
    status, code = aws.status_and_code(error)
    answer = aws.describe(status, code)
    if code == "KeyTooLongError":
        return InvalidKeyError(f"invalid key: {location} takes shorter ones ({answer}).")
    if code == ARCHIVED:
        return StoreError(f"An object of {location} is archived: {answer}.", hint=_RESTORE)
    if code.startswith("KMS."):
        return StoreAccessError(f"The KMS key that encrypts {location} cannot be used: {answer}.", hint=_KMS_KEY)
    if (problem := _problem_of_store(status, code, location, answer)) is not None:
        return problem
    return aws.explain(error, location, credential_source, ENDPOINT_VARIABLE, _PERMISSIONS)


def _problem_of_store(status: int, code: str, location: str, answer: str) -> UnusableStoreError | None:
    """Return the error of an unusable bucket or server; None for another error."""
    if code in _NO_BUCKET:
        return UnusableStoreError(
            f"There is no bucket for {location}: {answer}.",
            hint=f"Create it, for example by `aws s3 mb`, or check the URL and {ENDPOINT_VARIABLE}.",
        )
    if code in _OTHER_REGION or status in (301, 307):
        return UnusableStoreError(
            f"The bucket of {location} is in another region: {answer}.",
            hint="Set AWS_DEFAULT_REGION to the region of the bucket.",
        )
    if status == NOT_IMPLEMENTED:
        return UnusableStoreError(f"unexpected response from {location}: {answer}.", hint=_NO_CONDITIONS)
    return None
