"""Parse a registry URL of Azure. Pure, and without the SDK: the settings check the URL before a store is opened."""

from __future__ import annotations

import re

from mopsjobs.errors import ConfigError
from mopsjobs.utils.hosts import is_loopback

FORMS = "azure://CONTAINER or https://ACCOUNT.blob.core.windows.net/CONTAINER"

_CONTAINER = re.compile(r"(?=.{3,63}\Z)[a-z0-9]+(?:-[a-z0-9]+)*")

# Public cloud, China, US Government, and the DNS zones of Azure's newer accounts; with or without a private link.
_AZURE_HOST = re.compile(
    r"([a-z0-9]{3,24})(?:\.z[0-9]+|\.privatelink)?\.blob\."
    r"(?:core\.windows\.net|core\.chinacloudapi\.cn|core\.usgovcloudapi\.net|storage\.azure\.net)"
)

_AUTHORITY = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[a-z0-9.-]+)(?::(?P<port>[0-9]{1,5}))?")


class AzureUrl:
    """A container, and its account if the URL names one."""

    __slots__ = ("account", "container", "endpoint", "is_azure", "is_loopback")

    def __init__(
        self, container: str, *, endpoint: str | None = None, account: str | None = None, kind: str = ""
    ) -> None:
        self.container = container
        self.endpoint = endpoint
        """None for `azure://CONTAINER`: then the environment names the account."""
        self.account = account
        self.is_azure = kind == "azure"
        """Whether the host is Microsoft's."""
        self.is_loopback = kind == "loopback"


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
            raise ConfigError(f"invalid registry URL{_url_suffix(url)}: expected azure://CONTAINER, and no more.")
        return AzureUrl(_container(authority, url))
    words = _AUTHORITY.fullmatch(authority.lower())
    if words is None or int(words["port"] or 1) > 65535:
        raise ConfigError(f"invalid registry URL{_url_suffix(url)}: expected {FORMS}.")
    base, _, container = path.rpartition("/")
    azure, loopback = _AZURE_HOST.fullmatch(words["host"]), is_loopback(words["host"])
    if scheme == "http" and not loopback:
        raise ConfigError(
            f"invalid registry URL{_url_suffix(url)}: expected {FORMS}.",
            hint="Use https. Plain http is for an emulator on this machine only.",
        )
    if azure and (base or words["port"] not in (None, "443")):
        raise ConfigError(f"invalid registry URL{_url_suffix(url)}: expected {FORMS}, and no more.")
    if loopback and (not base or "/" in base):
        raise ConfigError(
            f"invalid registry URL{_url_suffix(url)}: expected http://127.0.0.1:PORT/ACCOUNT/CONTAINER for an emulator."
        )
    if not all(path.split("/")):
        raise ConfigError(f"invalid container in the registry URL{_url_suffix(url)}: expected {FORMS}.")
    endpoint = f"{scheme}://{words['host'] if azure else authority.lower()}" + (f"/{base}" if base else "")
    account = azure[1] if azure else base if loopback else None
    kind = "azure" if azure else "loopback" if loopback else ""
    return AzureUrl(_container(container, url), endpoint=endpoint, account=account, kind=kind)


def _container(name: str, url: str) -> str:
    if not _CONTAINER.fullmatch(name):
        raise ConfigError(
            f"invalid container in the registry URL{_url_suffix(url)}: "
            "expected 3 to 63 lower-case letters, digits, single hyphens."
        )
    return name


def _url_suffix(url: str) -> str:
    """Return a blank and the URL in quotes; nothing if a part of it may be a key or a token."""
    is_plain = len(url) <= 120 and url.isprintable() and not re.search(r"[=;%&+]|[A-Za-z0-9/]{48}", url)
    return f" '{url}'" if is_plain else ""
