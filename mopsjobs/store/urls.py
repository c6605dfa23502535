"""The forms of registry URLs, and the identity of the registry behind one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from mopsjobs.errors import ConfigError
from mopsjobs.store.azure.url import FORMS, parse_azure_url
from mopsjobs.utils.user_dirs import expand_home

DEFAULT_CONTAINER = "job-registry"

_ACCOUNT = r"[a-z0-9]{3,24}"

_SUFFIX = r"[A-Za-z0-9.-]+"

_ENDPOINT = r"https?://([^@/\s]*@)?[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9/._-]*)?(\?.*)?"

URL_FORMS = f"memory:, sqlite:///path/registry.db, dynamodb://TABLE, s3://BUCKET/PREFIX, {FORMS}"


def check_url(url: str) -> str:
    """Return the scheme of a registry URL: `memory`, `sqlite`, `dynamodb`, `s3`, `azure`, `https` or `http`.

    Raises:
        ConfigError: if the URL has none of the forms in `URL_FORMS`.
    """
    scheme, colon, rest = url.partition(":")
    invalid = f"invalid registry URL '{_without_secrets(url)}'"
    if not colon or not url.isprintable():
        raise ConfigError(f"{invalid}: expected {URL_FORMS}.")
    if scheme == "memory":
        if rest:
            raise ConfigError(f"{invalid}: expected nothing after memory:.")
    elif scheme == "sqlite":
        if rest.startswith("//") and not rest.startswith("///"):
            raise ConfigError(f"{invalid}: expected three slashes before an absolute path, sqlite:///path.")
        if rest.startswith("//") and any(segment in (".", "..") for segment in rest.split("/")):
            raise ConfigError(f"{invalid}: expected an absolute path, or sqlite:registry.db for a relative one.")
        if not rest.strip("/"):
            raise ConfigError(f"{invalid}: expected a file, sqlite:///path/registry.db.")
        expand_home(rest)
    elif scheme == "dynamodb" and rest.startswith("//"):
        from mopsjobs.store.dynamodb.url import parse_dynamodb_url

        parse_dynamodb_url(url)
    elif scheme == "s3" and rest.startswith("//"):
        from mopsjobs.store.s3.url import parse_s3_url

        parse_s3_url(url)
    elif scheme in ("azure", "https", "http") and rest.startswith("//"):
        parse_azure_url(url)
    else:
        raise ConfigError(f"{invalid}: expected {URL_FORMS}.")
    return scheme


def sqlite_path(url: str) -> str:
    """Return the absolute path of a `sqlite:` URL. `sqlite:registry.db` is relative to the working directory.

    `sqlite:~/registry.db` is in the user's home directory. After a colon, a shell does not expand `~`.
    """
    path = expand_home(url.removeprefix("sqlite:"))
    if path.startswith("///"):
        path = "/" + path.lstrip("/")
        if os.name == "nt":  # sqlite:///C:/path
            path = path[1:]
    return os.path.abspath(path)


def sqlite_url(path: str) -> str:
    """Return the URL of an absolute path. On drive C, it begins with `sqlite:///C:/`."""
    return "sqlite://" + (path if path.startswith("/") else "/" + path.replace("\\", "/"))


def is_local(url: str) -> bool:
    """Return whether the store lives on this machine, so that reads need no network."""
    return url.startswith(("memory:", "sqlite:"))


def default_url(env: Mapping[str, str], data_dir: str) -> str:
    """Return the registry that is used if none is named: Azure's if the environment names an account, else embedded."""
    if env.get("AZURE_STORAGE_CONNECTION_STRING") or env.get("AZURE_STORAGE_ACCOUNT"):
        return f"azure://{DEFAULT_CONTAINER}"
    return sqlite_url(os.path.join(data_dir, "registry.db"))


def identity(url: str, env: Mapping[str, str]) -> str:
    """Return the identity of a registry, without secrets: the same text for the same container or file.

    It contains the account, since `azure://container` is another container if the environment names another account.
    """
    scheme = url.partition(":")[0]
    if scheme == "sqlite":
        return sqlite_url(sqlite_path(url))
    if scheme == "dynamodb":
        from mopsjobs.store.dynamodb.url import dynamodb_identity

        return dynamodb_identity(url, env)
    if scheme == "s3":
        from mopsjobs.store.s3.url import s3_identity

        return s3_identity(url, env)
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
    # Only names and addresses are used. Any part of a damaged string may be the key, and the identity is printed.
    # A registry with such a string cannot be opened, so it needs no identity of its own.
    endpoint = facts.get("blobendpoint", "")
    if re.fullmatch(_ENDPOINT, endpoint, re.IGNORECASE):
        return _normal(f"{endpoint.partition('?')[0].rstrip('/')}/{container}")
    account = facts.get("accountname") or env.get("AZURE_STORAGE_ACCOUNT", "").strip()
    suffix = facts.get("endpointsuffix") or "core.windows.net"
    if endpoint or not (re.fullmatch(_ACCOUNT, account) and re.fullmatch(_SUFFIX, suffix)):
        return f"azure:///{container}"
    return _normal(f"https://{account}.blob.{suffix}/{container}")


def _normal(url: str) -> str:
    """Return an http(s) URL with scheme and host in lower case, without user, default port and last slash."""
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    port = {"https": ":443", "http": ":80"}.get(scheme.lower(), "")
    host = host.rpartition("@")[2].lower().removesuffix(port)
    return f"{scheme.lower()}://{host}{slash}{path.rstrip('/')}"


def _without_secrets(url: str) -> str:
    """Return the URL for a message: without query, user, password and control characters.

    The text after a `=` or `;` goes as well, since users paste connection strings and SAS tokens in place of URLs.
    """
    bare = url
    for mark in "?#=;":
        bare = bare.partition(mark)[0]
    scheme, slashes, rest = bare.partition("//")
    host, slash, path = rest.partition("/")
    safe = scheme + slashes + host.rpartition("@")[2] + slash + path
    return safe if safe.isprintable() else ascii(safe)[1:-1]
