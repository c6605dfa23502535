"""Parse a registry URL of Azure. Pure, and without the SDK: the settings check the URL before a store is opened."""

from __future__ import annotations

import re
from collections import namedtuple

from mopsjobs.errors import ConfigError
from mopsjobs.utils.hosts import is_loopback

FORMS = "azure://CONTAINER or https://ACCOUNT.blob.core.windows.net/CONTAINER"

# Public cloud, China, US Government, and the DNS zones of Azure's newer accounts.
_AZURE_DOMAINS = ("core.windows.net", "core.chinacloudapi.cn", "core.usgovcloudapi.net", "storage.azure.net")


AzureUrl = namedtuple("AzureUrl", "container endpoint account kind", defaults=(None, None, ""))  # noqa: PYI024 - see below
"""A container, and its account if the URL names one; `kind` is "azure" if the host is Microsoft's, or "loopback".

Without an endpoint, as in `azure://CONTAINER`, the environment names the account. `typing` would cost a listing 3 ms.
"""


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
        raise _invalid(url, FORMS)
    base, _, container = path.rpartition("/")
    azure, loopback = _azure_account(host), is_loopback(host)
    if scheme == "http" and not loopback:
        raise _invalid(url, FORMS, hint="Use https. Plain http is for an emulator on this machine only.")
    if azure and (base or port not in ("", "443")):
        raise _invalid(url, f"{FORMS}, and no more")
    if loopback and (not base or "/" in base):
        raise _invalid(url, "http://127.0.0.1:PORT/ACCOUNT/CONTAINER for an emulator")
    if not all(path.split("/")):
        raise _invalid(url, FORMS, "container in the registry URL")
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
