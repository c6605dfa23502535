"""Registry URLs: which forms there are, and what tells one registry from another."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from mopsjobs.errors import ConfigError
from mopsjobs.store.azure.url import FORMS, parse_azure_url
from mopsjobs.utils.user_dirs import expanded

TYPE_CHECKING = False  # typing itself costs 3 ms, on the one path that must be instant

if TYPE_CHECKING:
    pass


DEFAULT_CONTAINER = "job-registry"


_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")


_SUFFIX = re.compile(r"[A-Za-z0-9.-]+")


_ENDPOINT = re.compile(r"https?://([^@/\s]*@)?[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9/._-]*)?(\?.*)?", re.IGNORECASE)


URL_FORMS = f"memory:, sqlite:///path/registry.db, dynamodb://TABLE, {FORMS}"


def check_url(url: str) -> str:
    """The scheme of a registry URL: `memory`, `sqlite`, `dynamodb`, `azure`, `https` or `http`.

    Raises:
        ConfigError: it is no registry URL. Says which forms there are.
    """
    scheme, colon, rest = url.partition(":")
    if not colon or not url.isprintable():
        raise ConfigError(f"'{_shown(url)}' is no registry URL: use {URL_FORMS}.")
    if scheme == "memory":
        if rest:
            raise ConfigError(f"'{_shown(url)}' is no registry URL: after memory: nothing may follow.")
    elif scheme == "sqlite":
        if rest.startswith("//") and not rest.startswith("///"):
            raise ConfigError(
                f"'{_shown(url)}' is no registry URL: an absolute path has three slashes, sqlite:///path."
            )
        if rest.startswith("//") and any(segment in (".", "..") for segment in rest.split("/")):
            raise ConfigError(f"'{_shown(url)}' is no absolute path: a relative one is written sqlite:registry.db.")
        if not rest.strip("/"):
            raise ConfigError(f"'{_shown(url)}' names no file: use sqlite:///path/registry.db.")
        expanded(rest)
    elif scheme == "dynamodb" and rest.startswith("//"):
        from mopsjobs.store.dynamodb.url import parse_dynamodb_url

        parse_dynamodb_url(url)
    elif scheme in ("azure", "https", "http") and rest.startswith("//"):
        parse_azure_url(url)
    else:
        raise ConfigError(f"'{_shown(url)}' is no registry URL: use {URL_FORMS}.")
    return scheme


def sqlite_path(url: str) -> str:
    """The absolute path in a `sqlite:` URL; a relative one (`sqlite:registry.db`) counts from the working directory.

    `sqlite:~/registry.db` is in the user's home: after a colon, no shell puts that in.
    """
    path = expanded(url.removeprefix("sqlite:"))
    if path.startswith("///"):
        path = "/" + path.lstrip("/")
        if os.name == "nt":  # sqlite:///C:/path
            path = path[1:]
    return os.path.abspath(path)


def is_local(url: str) -> bool:
    """Whether the store lives on this machine, so that reading it costs no network."""
    return url.startswith(("memory:", "sqlite:"))


def default_url(env: Mapping[str, str], data_dir: str) -> str:
    """The registry to use when nobody names one: Azure's where the environment knows an account, else embedded."""
    if env.get("AZURE_STORAGE_CONNECTION_STRING") or env.get("AZURE_STORAGE_ACCOUNT"):
        return f"azure://{DEFAULT_CONTAINER}"
    return "sqlite://" + os.path.join(data_dir, "registry.db")


def identity(url: str, env: Mapping[str, str]) -> str:
    """What tells one registry from another, without secrets: the same text for the same container or file.

    `azure://container` means another container when the environment names another account, so the account is in it.
    """
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        return "sqlite://" + sqlite_path(url)
    if scheme == "dynamodb":
        from mopsjobs.store.dynamodb.url import dynamodb_identity

        return dynamodb_identity(url, env)
    if scheme == "azure":
        return _azure_identity(url, env)
    return _normal(url) if scheme in ("https", "http") else url


def _azure_identity(url: str, env: Mapping[str, str]) -> str:
    container = url.removeprefix("azure://").strip("/")
    facts: dict[str, str] = {}
    for part in env.get("AZURE_STORAGE_CONNECTION_STRING", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name.lower() in ("accountname", "blobendpoint", "endpointsuffix", "usedevelopmentstorage"):
            facts[name.lower()] = value.strip()
    if facts.get("usedevelopmentstorage", "").lower() == "true":
        return f"http://127.0.0.1:10000/devstoreaccount1/{container}"
    # Only what can be a name or an address. Of a damaged string anything may be the key, and the identity is shown:
    # such a registry cannot be opened, so it need not be told from others.
    endpoint = facts.get("blobendpoint", "")
    if _ENDPOINT.fullmatch(endpoint):
        return _normal(f"{endpoint.partition('?')[0].rstrip('/')}/{container}")
    account = facts.get("accountname") or env.get("AZURE_STORAGE_ACCOUNT", "").strip()
    suffix = facts.get("endpointsuffix") or "core.windows.net"
    if endpoint or not (_ACCOUNT.fullmatch(account) and _SUFFIX.fullmatch(suffix)):
        return f"azure:///{container}"
    return _normal(f"https://{account}.blob.{suffix}/{container}")


def _normal(url: str) -> str:
    """An http(s) URL with scheme and host in lower case, no user, and no port or slash that says nothing."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    port = {"https": ":443", "http": ":80"}.get(scheme.lower(), "")
    host = host.rpartition("@")[2].lower().removesuffix(port)
    return f"{scheme.lower()}://{host}{slash}{path.rstrip('/')}"


def _shown(url: str) -> str:
    """The URL as it may stand in a message: without query, user or password, and nothing that moves a cursor.

    Nor with what follows a `=` or `;`, since people paste connection strings and SAS tokens in the place of URLs.
    """
    bare = url
    for mark in "?#=;":
        bare = bare.partition(mark)[0]
    scheme, slashes, rest = bare.partition("//")
    host, slash, path = rest.partition("/")
    shown = scheme + slashes + host.rpartition("@")[2] + slash + path
    return shown if shown.isprintable() else ascii(shown)[1:-1]
