"""Turn the errors of Azure's SDK into those of the store's contract, each in one sentence without secrets."""

from __future__ import annotations

import re

from azure.core.exceptions import AzureError, ClientAuthenticationError, DecodeError, ServiceRequestTimeoutError
from urllib3.exceptions import HTTPError

from mopsjobs.errors import StoreAccessError, StoreError, StoreUnavailableError
from mopsjobs.store.network import error_chain, unavailable

_BUSY_STATUSES = frozenset({408, 429, 502, 503, 504})

_BUSY_CODES = frozenset({"ContainerBeingDeleted", "AccountBeingCreated", "ServerBusy", "OperationTimedOut"})

_VERSION_REFUSED = "400 InvalidHeaderValue"
"""What Azurite answers to an SDK that is newer than itself."""

_TIMEOUTS = (ServiceRequestTimeoutError,)

_WIRE = (OSError, HTTPError)
"""The errors of connections, those of requests among them."""

_ERROR_CODE = re.compile(r"[A-Za-z0-9]{1,80}")


def error_code(error: Exception) -> str:
    """Return Azure's error code, such as `BlobNotFound`; empty if there is none."""
    code = getattr(error, "error_code", None)
    if code is None and (response := getattr(error, "response", None)) is not None:
        code = response.headers.get("x-ms-error-code")
    word = str(getattr(code, "value", code) or "")
    return word if _ERROR_CODE.fullmatch(word) else ""


def is_timeout(error: Exception) -> bool:
    """Return whether no byte came in time."""
    return any(isinstance(each, (TimeoutError, *_TIMEOUTS)) for each in error_chain(error))


def retry_after(error: Exception) -> float:
    """Return the seconds for which the reply asks clients to wait; 0 if it does not."""
    response = getattr(error, "response", None)
    text = response.headers.get("Retry-After", "") if response is not None else ""
    return float(text) if text.isdecimal() else 0.0


def explain(error: Exception, location: str, credential_source: str) -> StoreError:
    """Return the error of the store's contract, in one sentence without secrets.

    The SDK's texts are never passed on: those of network errors hold the URL of the request with its SAS token.
    """
    if isinstance(error, StoreError):
        return error
    status = getattr(error, "status_code", None)
    answer = f"{status} {error_code(error)}".rstrip()
    if status in (401, 403):
        return StoreAccessError(
            f"{location} refused the credentials from {credential_source}: {answer}.",
            hint="Check that they are for this account, and allow this.",
        )
    if isinstance(error, ClientAuthenticationError):
        return StoreAccessError(
            f"There are no credentials for {location}: {credential_source} found none.",
            hint="Sign in with `az login`, or set AZURE_STORAGE_CONNECTION_STRING.",
        )
    is_busy = status in _BUSY_STATUSES or error_code(error) in _BUSY_CODES
    if is_busy or status == 500:
        problem = "is throttling requests" if is_busy else "failed to serve a request"
        return StoreUnavailableError(f"{location} {problem}: {answer}.", throttled=is_busy)
    # A library refuses a malformed URL or header by an error of its own that is a ValueError: that is not an outage.
    is_refused = any(isinstance(each, _WIRE) and isinstance(each, ValueError) for each in error_chain(error))
    is_of_wire = isinstance(error, (AzureError, *_WIRE)) and not isinstance(error, DecodeError)
    if status is None and is_of_wire and not is_refused:
        return unavailable(error, location, _TIMEOUTS)
    answer = answer if status else type(error).__name__
    hint = "If this is an Azurite, start it with --skipApiVersionCheck." if answer == _VERSION_REFUSED else None
    return StoreError(f"unexpected response from {location}: {answer}.", hint=hint)
