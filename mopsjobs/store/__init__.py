"""Versioned bytes under keys, one module a backend; `open_store(url)` picks one.

A backend's SDK is imported by its own module alone, and that module only when its URL is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from mopsjobs.errors import INSTALL, StoreError
from mopsjobs.store.urls import check_url, sqlite_path

TYPE_CHECKING = False  # typing itself costs 3 ms, on the one path that must be instant

if TYPE_CHECKING:
    from mopsjobs.store.base import VersionedStore


def open_store(
    url: str, env: Mapping[str, str] = os.environ, *, when_missing: Callable[[], None] = lambda: None
) -> VersionedStore:
    """The store at `url`. Opening sends nothing over the network; the first use does.

    Args:
        url: one of the forms in `URL_FORMS`.
        env: where Azure's credentials are looked for. AWS's are found by boto3, in the environment of the process.
        when_missing: called where an embedded store has no file, before it is read as empty, or one is made; what it
            raises stops that.

    Raises:
        ConfigError: the URL is none of these.
        StoreAccessError: the credentials in `env` cannot be used as they are.
        StoreError: the libraries that the backend needs are not here.
    """
    scheme = check_url(url)
    if scheme == "memory":
        from mopsjobs.store.memory import InMemoryVersionedStore

        return InMemoryVersionedStore()
    if scheme == "sqlite":
        from mopsjobs.store.sqlite.store import SQLiteVersionedStore

        return SQLiteVersionedStore(sqlite_path(url), when_missing)
    if scheme == "dynamodb":
        from mopsjobs.store.dynamodb.url import check_boto3, parse_dynamodb_url

        check_boto3()
        from mopsjobs.store.dynamodb.store import DynamoDBVersionedStore

        return DynamoDBVersionedStore(parse_dynamodb_url(url))
    try:
        from mopsjobs.store.azure.store import open_azure_store
    except ModuleNotFoundError as error:
        raise StoreError(f"The package {error.name} is not installed.", hint=INSTALL) from None
    except ImportError as error:
        # cryptography is the one part of the single file that is made for one platform.
        raise StoreError(
            f"Azure's libraries do not load on this platform: {error}.",
            hint="Build the file here with ./build.sh, or install mops-jobs with pip.",
        ) from None

    return open_azure_store(url, env)
