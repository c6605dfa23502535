"""Versioned bytes under keys. `open_store(url)` is the entry for Python programs.

`base.py` has the contract that each backend keeps, `cas.py` the compare-and-swap loop over it. There is one module or
package per backend: memory, SQLite, Azure Blob Storage, DynamoDB, S3. Only the modules of a backend import its SDK.
`open_store` imports a backend only for its URLs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping

from mopsjobs.errors import IF_PIP_REFUSES, INSTALL, StoreError, UsageError
from mopsjobs.store.urls import check_url, sqlite_path

TYPE_CHECKING = False

if TYPE_CHECKING:
    from mopsjobs.store.base import VersionedStore

MIN_BOTO3 = "1.41"
"""pyproject.toml names it, too."""


def open_store(
    url: str, env: Mapping[str, str] = os.environ, *, when_missing: Callable[[], None] = lambda: None
) -> VersionedStore:
    """Open the store at `url`. This sends nothing over the network; the first use does.

    Args:
        url: one of the forms in `URL_FORMS`.
        env: the environment variables with Azure's credentials. boto3 finds AWS's in the environment of the process.
        when_missing: called if an embedded store has no file, before it counts as empty, or is made. An error from it
            prevents both.

    Raises:
        ConfigError: if the URL has none of these forms.
        StoreAccessError: if the credentials in `env` are malformed.
        StoreError: if a library that the backend needs is not installed.
    """
    scheme = check_url(url)
    if scheme == "memory":
        from mopsjobs.store.memory import InMemoryVersionedStore

        return InMemoryVersionedStore()
    if scheme == "sqlite":
        from mopsjobs.store.sqlite.store import SQLiteVersionedStore

        return SQLiteVersionedStore(sqlite_path(url), when_missing)
    try:
        if scheme == "dynamodb":
            from mopsjobs.store.aws.urls import parse_dynamodb_url
            from mopsjobs.store.dynamodb.store import DynamoDBVersionedStore

            return DynamoDBVersionedStore(parse_dynamodb_url(url))
        if scheme == "s3":
            from mopsjobs.store.aws.urls import parse_s3_url
            from mopsjobs.store.condition_probe import ProbedStore
            from mopsjobs.store.s3.store import S3VersionedStore

            store = S3VersionedStore(*parse_s3_url(url))
            return ProbedStore(store, store.find_server)
    except ImportError:  # an older version lacks an error of signing in
        raise UsageError(
            f"A registry in {scheme} needs the package boto3 {MIN_BOTO3} or later, which this Python does not have.",
            hint=f"Install it: {sys.executable} -m pip install 'boto3>={MIN_BOTO3}'. {IF_PIP_REFUSES}",
        ) from None
    try:
        from mopsjobs.store.azure.store import open_azure_store
    except ModuleNotFoundError as error:
        raise StoreError(f"The package {error.name} is not installed.", hint=INSTALL) from None
    except ImportError as error:  # of the cryptography that this Python has
        raise StoreError(
            f"Azure's libraries do not load: {error}.", hint="Reinstall the package that is named."
        ) from None

    return open_azure_store(url, env)
