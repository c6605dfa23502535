"""Find out why a store across a network does not answer. Azure, DynamoDB and S3 share it.

The authorities that servers are checked against are found here too, also those of notifications.

A user waits for a command, so it fails within five seconds if the network is gone.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from mopsjobs.errors import ConfigError, StoreUnavailableError
from mopsjobs.version import __version__

_ETAG = re.compile(r"[!#-)+-~]+")  # the characters of an ETag, without `*`, which would match every version


def is_etag(version: str) -> bool:
    """Return whether a version may be sent as the condition of a write: another one never matches."""
    return bool(_ETAG.fullmatch(version))


def bare_etag(etag: object) -> str:
    """Return an ETag without the quotes that replies have, and some listings not; empty if it is none."""
    value = etag.strip('"') if isinstance(etag, str) else ""
    return value if is_etag(value) else ""


BUDGET_SECONDS = 4.5
"""Seconds for all attempts at one read while the store does not answer: five, less the start of the program.

Stores import the module and not the name, so that a test sets it in one place.
"""

USER_AGENT = f"mops-jobs/{__version__}"

POOL_CONNECTIONS = 72
"""Connections for reuse: for up to 64 threads that fetch in a sync, and for the threads that list ahead of them."""

_CAUSES: tuple[tuple[type[BaseException], str], ...] = (
    (socket.gaierror, "its name does not resolve"),
    (ssl.SSLCertVerificationError, "its TLS certificate is not trusted"),
    (ssl.SSLError, "TLS could not be agreed on"),
    (TimeoutError, "no answer in time"),
    (ConnectionRefusedError, "connection refused"),
)


def name_server_answers(url: str, seconds: float) -> bool:
    """Return whether the name server answers for the URL's host in time. No socket timeout covers these up to 30 s.

    The result is dropped, and an error as well: the request itself meets the error again, and reports it.
    """
    if urllib.request.getproxies():
        return True
    parts = urlsplit(url)
    thread = threading.Thread(target=_resolve, args=(parts.hostname, parts.port), daemon=True)
    thread.start()
    thread.join(seconds)
    return not thread.is_alive()


def _resolve(host: str | None, port: int | None) -> None:
    try:
        socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return


def time_of_reply(date: str | None) -> datetime | None:
    """Return when a reply was sent, by its header Date; None if it has none, or one in another form."""
    try:
        return parsedate_to_datetime(date or "").astimezone(UTC)
    except (TypeError, ValueError):
        return None


def unavailable(
    error: Exception, location: str, timeout_types: tuple[type[BaseException], ...]
) -> StoreUnavailableError:
    """Turn an error into the outage that it is. `timeout_types` are the timeouts of a library, besides TimeoutError."""
    errors = list(error_chain(error))
    silent = any(isinstance(each, (TimeoutError, *timeout_types)) for each in errors)
    kinds = {type(each) for each in errors}
    return StoreUnavailableError(
        f"Cannot reach {location}: {_cause(errors, silent=silent)}.",
        sent=not kinds & {ConnectionRefusedError, socket.gaierror},
        silent=silent,
    )


def _cause(errors: list[BaseException], *, silent: bool) -> str:
    """Return the reason why there was no reply, in a few words."""
    for kind, words in _CAUSES:
        if any(isinstance(each, kind) for each in errors) or (silent and kind is TimeoutError):
            return words
    named = (each.strerror for each in errors if isinstance(each, OSError) and not isinstance(each, ConnectionError))
    return next((words.lower() for words in named if words), "the connection broke")


def error_chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all errors that it wraps. Each library keeps the cause in a place of its own."""
    todo: list[object] = [error]
    seen: set[int] = set()
    while todo and len(seen) < 32:
        each = todo.pop()
        if not isinstance(each, BaseException) or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        inner = (getattr(each, name, None) for name in ("reason", "inner_exception", "__cause__", "__context__"))
        todo.extend([*each.args, *inner])


def tls_authorities(env: Mapping[str, str]) -> str | bool:
    """Return the file of TLS authorities that certificates are checked with, or True for those of `certifi`.

    The check cannot be turned off. `requests` reads REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE. After them comes OpenSSL's
    own SSL_CERT_FILE, which other programs and the Kubernetes engine read as well.

    Raises:
        ConfigError: if a variable names a file that does not exist.
    """
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        if path := env.get(name):
            if not os.path.exists(path):
                raise ConfigError(f"invalid {name} '{path}': expected a file of TLS authorities.")
            return path
    return True
