"""The forms of registry URLs, and the identity of the registry behind one."""

from __future__ import annotations

import os
import re
from collections import namedtuple
from collections.abc import Mapping

from mopsjobs.errors import ConfigError
from mopsjobs.utils.hosts import is_loopback
from mopsjobs.utils.user_dirs import expand_home

AZURE_FORMS = "azure://CONTAINER or https://ACCOUNT.blob.core.windows.net/CONTAINER"

# Public cloud, China, US Government, and the DNS zones of Azure's newer accounts.
_AZURE_DOMAINS = ("core.windows.net", "core.chinacloudapi.cn", "core.usgovcloudapi.net", "storage.azure.net")


AzureUrl = namedtuple("AzureUrl", "container endpoint account kind", defaults=(None, None, ""))  # noqa: PYI024 - see below
"""A container, and its account if the URL names one; `kind` is "azure" if the host is Microsoft's, or "loopback".

Without an endpoint, as in `azure://CONTAINER`, the environment names the account. `typing` would cost a listing 3 ms.
"""

DEFAULT_CONTAINER = "job-registry"

_ACCOUNT = r"[a-z0-9]{3,24}"

_SUFFIX = r"[A-Za-z0-9.-]+"

_ENDPOINT = r"https?://([^@/\s]*@)?[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9/._-]*)?(\?.*)?"

URL_FORMS = f"memory:, sqlite:///path/registry.db, dynamodb://TABLE, s3://BUCKET/PREFIX, {AZURE_FORMS}"


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
        from mopsjobs.store.aws.urls import parse_dynamodb_url

        parse_dynamodb_url(url)
    elif scheme == "s3" and rest.startswith("//"):
        from mopsjobs.store.aws.urls import parse_s3_url

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
        from mopsjobs.store.aws.urls import dynamodb_identity

        return dynamodb_identity(url, env)
    if scheme == "s3":
        from mopsjobs.store.aws.urls import s3_identity

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


# --- Azure ------------------------------------------------------------------------------------------------------------


def parse_azure_url(url: str) -> AzureUrl:
    """Parse the URL of a container.

    Raises:
        ConfigError: if it is not such a URL, or may hold a secret. Then the message does not repeat it.
    """
    scheme, _, rest = url.partition("://")
    authority, _, path = rest.partition("/")
    if "?" in url or "#" in url:
        raise ConfigError(
            f"invalid registry URL {scheme}://…: expected no query.",
            hint="Put a SAS token into AZURE_STORAGE_SAS_TOKEN.",
        )
    if "@" in authority:
        raise ConfigError(
            f"invalid registry URL {scheme}://…: expected no user name or password.",
            hint="Put credentials into the environment.",
        )
    path = path.rstrip("/")
    if scheme == "azure":
        if path:
            raise _invalid(url, "azure://CONTAINER, and no more")
        return AzureUrl(_container(authority, url))
    host, port = _split_authority(authority.lower())
    if not _is_host(host) or port is None:
        raise _invalid(url, AZURE_FORMS)
    base, _, container = path.rpartition("/")
    azure, loopback = _azure_account(host), is_loopback(host)
    if scheme == "http" and not loopback:
        raise _invalid(url, AZURE_FORMS, hint="Use https. Plain http is for an emulator on this machine only.")
    if azure and (base or port not in ("", "443")):
        raise _invalid(url, f"{AZURE_FORMS}, and no more")
    if loopback and (not base or "/" in base):
        raise _invalid(url, "http://127.0.0.1:PORT/ACCOUNT/CONTAINER for an emulator")
    if not all(path.split("/")):
        raise _invalid(url, AZURE_FORMS, "container in the registry URL")
    endpoint = f"{scheme}://{host if azure else authority.lower()}" + (f"/{base}" if base else "")
    account = azure or (base if loopback else None)
    return AzureUrl(_container(container, url), endpoint, account, "azure" if azure else "loopback" if loopback else "")


def _split_authority(authority: str) -> tuple[str, str | None]:
    """Return host and port; an empty text for the port if there is none, and None if it is not valid."""
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):  # the colons are those of an IPv6 address
        return authority, ""
    is_valid = len(port) <= 5 and port.isascii() and port.isdigit() and int(port) <= 65535
    return host, port if is_valid else None


def _is_host(text: str) -> bool:
    if text.startswith("[") and text.endswith("]"):
        return len(text) > 2 and set(text[1:-1]) <= set("0123456789abcdef:.")
    return bool(text) and _is_plain(text.replace(".", "a").replace("-", "a"))


def _is_plain(text: str) -> bool:
    """Return whether a text has lower-case letters and digits of ASCII alone, and at least one."""
    return text.isascii() and text.isalnum() and text == text.lower()


def _azure_account(host: str) -> str | None:
    """Return the account in a host of Azure; None if the host is another."""
    name, _, domain = host.partition(".blob.")
    account, dot, zone = name.partition(".")  # a DNS zone, as z12, or a private link
    is_zone = zone == "privatelink" or (zone[:1] == "z" and zone.isascii() and zone[1:].isdigit())
    is_azure = domain in _AZURE_DOMAINS and 3 <= len(account) <= 24 and _is_plain(account) and (is_zone or not dot)
    return account if is_azure else None


def _container(name: str, url: str) -> str:
    # Written without regular expressions, as above: to compile them takes longer than all queries of a listing.
    if not 3 <= len(name) <= 63 or not all(_is_plain(part) for part in name.split("-")):
        expected = "3 to 63 lower-case letters, digits, single hyphens"
        raise _invalid(url, expected, "container in the registry URL")
    return name


def _invalid(url: str, expected: str, what: str = "registry URL", hint: str | None = None) -> ConfigError:
    """Return the error for a URL. It does not repeat one of which a part may be a key or a token."""
    is_plain = len(url) <= 120 and url.isprintable() and not re.search(r"[=;%&+]|[A-Za-z0-9/]{48}", url)
    shown = f" '{url}'" if is_plain else ""
    return ConfigError(f"invalid {what}{shown}: expected {expected}.", hint=hint)
