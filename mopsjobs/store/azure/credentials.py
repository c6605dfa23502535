"""Find the storage account of a registry URL, and the credential for it, in the order of the Azure CLI.

The order is `AZURE_STORAGE_CONNECTION_STRING`, `AZURE_STORAGE_ACCOUNT` with `AZURE_STORAGE_KEY` or
`AZURE_STORAGE_SAS_TOKEN`, `DefaultAzureCredential`.

A URL may come from anywhere, so further rules apply. A secret of one account is never sent to another. A sign-in token
goes to Microsoft's storage hosts only. No secret goes over a network in clear: a listener could take a SAS token, and
change a bundle, which is code that runs. Messages name variables and hosts, never a value that may be a secret.
"""

from __future__ import annotations

import base64
import re
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from azure.core.credentials import AzureNamedKeyCredential, AzureSasCredential

from mopsjobs.errors import ConfigError, StoreAccessError
from mopsjobs.store.urls import AzureUrl, parse_azure_url
from mopsjobs.utils.hosts import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

    from azure.core.credentials import TokenCredential


CONNECTION_STRING = "AZURE_STORAGE_CONNECTION_STRING"

ACCOUNT = "AZURE_STORAGE_ACCOUNT"

KEY = "AZURE_STORAGE_KEY"

SAS_TOKEN = "AZURE_STORAGE_SAS_TOKEN"  # noqa: S105 - the name of a variable

SIGN_IN = "DefaultAzureCredential"

EMULATOR = "the emulator's published key"

EMULATOR_ACCOUNT = "devstoreaccount1"

# Published by Microsoft, and the same for all users: learn.microsoft.com/azure/storage/common/storage-use-azurite
EMULATOR_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

EMULATOR_ENDPOINT = f"http://127.0.0.1:10000/{EMULATOR_ACCOUNT}"

_ACCOUNT_NAME = re.compile(r"[a-z0-9]{3,24}")

# A sign-in looks in many places; these bounds are for each of them. The Azure CLI alone takes one to three seconds.
_SIGN_IN_BOUNDS = {"process_timeout": 4, "connection_timeout": 2, "read_timeout": 4, "retry_total": 1}


@dataclass(frozen=True)
class AzureContainer:
    """A container and the credential for it. `endpoint` and `container` are safe to show; the credential is not."""

    endpoint: str
    container: str
    credential: AzureNamedKeyCredential | AzureSasCredential | TokenCredential = field(repr=False)
    credential_source: str

    @property
    def location(self) -> str:
        """Return the container's URL, without secrets."""
        return f"{self.endpoint}/{self.container}"


def find_container(url: str, env: Mapping[str, str]) -> AzureContainer:
    """Find the account and the credential for `url` in `env`.

    Args:
        url: `azure://CONTAINER`, `https://ACCOUNT.blob.core.windows.net/CONTAINER`, or an Azurite's
            `http://127.0.0.1:PORT/ACCOUNT/CONTAINER`.
        env: the environment variables.

    Raises:
        ConfigError: if the URL or a variable is malformed, or the two name different accounts.
        StoreAccessError: if no variable names the account of an `azure://` URL.
    """
    target = parse_azure_url(url)
    settings = {name: env.get(name, "").strip() for name in (CONNECTION_STRING, ACCOUNT, KEY, SAS_TOKEN)}
    if settings[CONNECTION_STRING]:
        endpoint, credential = _parse_connection_string(settings[CONNECTION_STRING])
        if target.endpoint is None or _address(target.endpoint) == _address(endpoint):
            return AzureContainer(target.endpoint or endpoint, target.container, credential, CONNECTION_STRING)
        return _emulator(target) or _refuse(target, CONNECTION_STRING)
    if settings[ACCOUNT] and not _ACCOUNT_NAME.fullmatch(settings[ACCOUNT]):
        raise ConfigError(f"invalid account name in {ACCOUNT}: expected 3 to 24 lower-case letters and digits.")
    secret = next((name for name in (KEY, SAS_TOKEN) if settings[name]), None)
    if secret is not None:
        if target.endpoint is not None and (not settings[ACCOUNT] or target.account != settings[ACCOUNT]):
            return _emulator(target) or _refuse(target, secret)
        if not settings[ACCOUNT]:
            raise ConfigError(f"{secret} is set, but {ACCOUNT} is not: a secret is only sent to the account it is for.")
        if target.endpoint is not None and not target.kind:
            return _refuse(target, secret)
        return AzureContainer(
            target.endpoint or _public_endpoint(settings[ACCOUNT]),
            target.container,
            _secret(secret, settings[ACCOUNT], settings[secret]),
            f"{ACCOUNT} with {secret}",
        )
    return _emulator(target) or _sign_in(target, settings[ACCOUNT])


def _sign_in(target: AzureUrl, account: str) -> AzureContainer:
    if target.endpoint is None and not account:
        raise StoreAccessError(
            f"No variable names the storage account of the container {target.container!r}.",
            hint=f"Set {CONNECTION_STRING}, or {ACCOUNT} with {KEY} or {SAS_TOKEN}; or name the account in the URL.",
        )
    if target.endpoint is not None and target.kind != "azure":
        return _refuse(target, SIGN_IN)
    # Only now: azure.identity takes a third of a second to import.
    from azure.identity import DefaultAzureCredential

    try:
        credential = DefaultAzureCredential(**_SIGN_IN_BOUNDS)
    except (ImportError, OSError, ValueError) as error:  # of a certificate, or of cryptography
        reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else type(error).__name__
        raise StoreAccessError(
            f"Azure sign-in by certificate fails: {reason}.",
            hint=f"Check AZURE_CLIENT_CERTIFICATE_PATH, and that {sys.executable} has the package cryptography.",
        ) from None
    return AzureContainer(target.endpoint or _public_endpoint(account), target.container, credential, SIGN_IN)


def _emulator(target: AzureUrl) -> AzureContainer | None:
    """Return the container of an Azurite with its published key; None for any other account."""
    if target.endpoint is None or target.kind != "loopback" or target.account != EMULATOR_ACCOUNT:
        return None
    credential = AzureNamedKeyCredential(EMULATOR_ACCOUNT, EMULATOR_KEY)
    return AzureContainer(target.endpoint, target.container, credential, EMULATOR)


def _refuse(target: AzureUrl, source: str) -> AzureContainer:
    if source == SIGN_IN:
        is_s3 = ".amazonaws.com" in (target.endpoint or "")
        hint = "For a bucket of S3, use s3://BUCKET/PREFIX." if is_s3 else f"For another host set {CONNECTION_STRING}."
        raise ConfigError(
            f"The registry URL names {target.endpoint}, which is not an Azure storage host: it gets no sign-in token.",
            hint=hint,
        )
    raise ConfigError(
        f"The registry URL names {target.endpoint}, but {source} is not for that account: it is not sent there.",
        hint=f"Make {CONNECTION_STRING} or {ACCOUNT} name the account of the URL, or unset {source}.",
    )


def _public_endpoint(account: str) -> str:
    return f"https://{account}.blob.core.windows.net"


def _parse_connection_string(text: str) -> tuple[str, AzureNamedKeyCredential | AzureSasCredential]:
    """Return the blob endpoint and the credential.

    Raises:
        ConfigError: if the string is malformed. The message repeats no part of it.
    """
    pairs = [pair.partition("=") for pair in text.split(";") if pair.strip()]
    if not pairs or not all(separator for _, separator, _ in pairs):
        raise _invalid_string("name=value pairs with semicolons between")
    fields = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if fields.get("usedevelopmentstorage", "").lower() == "true":
        return EMULATOR_ENDPOINT, AzureNamedKeyCredential(EMULATOR_ACCOUNT, EMULATOR_KEY)
    account, key = fields.get("accountname", ""), fields.get("accountkey", "")
    endpoint = fields.get("blobendpoint", "").rstrip("/")
    if not endpoint:
        if not _ACCOUNT_NAME.fullmatch(account):
            raise _invalid_string("a valid AccountName or a BlobEndpoint")
        scheme = fields.get("defaultendpointsprotocol") or "https"
        endpoint = f"{scheme}://{account}.blob.{fields.get('endpointsuffix') or 'core.windows.net'}"
    parts = _split(endpoint, f"endpoint in {CONNECTION_STRING}")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or "@" in parts.netloc:
        raise _invalid_string("an http or https URL as its endpoint")
    is_published = account == EMULATOR_ACCOUNT and key == EMULATOR_KEY
    if parts.scheme == "http" and not is_loopback(parts.hostname) and not is_published:
        raise ConfigError(
            f"{CONNECTION_STRING} names plain http, so others on the network could read and change the data.",
            hint="Use https. Plain http is for an emulator only: on this machine, or with the published key.",
        )
    if key and account:
        return endpoint, AzureNamedKeyCredential(account, _check_key(key, CONNECTION_STRING))
    if fields.get("sharedaccesssignature"):
        return endpoint, AzureSasCredential(fields["sharedaccesssignature"].lstrip("?"))
    raise _invalid_string("AccountName and AccountKey, or a SharedAccessSignature")


def _invalid_string(expected: str) -> ConfigError:
    return ConfigError(f"invalid {CONNECTION_STRING}: expected {expected}.")


def _secret(source: str, account: str, value: str) -> AzureNamedKeyCredential | AzureSasCredential:
    if source == KEY:
        return AzureNamedKeyCredential(account, _check_key(value, KEY))
    return AzureSasCredential(value.lstrip("?"))


def _check_key(key: str, source: str) -> str:
    try:
        base64.b64decode(key, validate=True)
    except ValueError:
        raise ConfigError(f"invalid account key in {source}: expected base64.") from None
    return key


def _split(url: str, what: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # parsed late; raises if the port is invalid
    except ValueError:
        raise ConfigError(f"invalid {what}: expected a URL.") from None
    return parts


def _address(endpoint: str) -> tuple[str | None, int | None, str]:
    parts = urlsplit(endpoint)
    # 443 and 80 may be written or left out.
    return parts.hostname, None if parts.port in (80, 443) else parts.port, parts.path.strip("/")
