"""Parse a registry URL of DynamoDB. Pure, and without the SDK: the settings check the URL before a store is opened."""

from __future__ import annotations

import re
import sys

from mopsjobs.errors import IF_PIP_REFUSES, ConfigError, UsageError

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Mapping


_TABLE = re.compile(r"[A-Za-z0-9_.-]{3,255}")

_NAMING = (
    ("endpoint", ("AWS_ENDPOINT_URL_DYNAMODB", "AWS_ENDPOINT_URL")),
    ("account", ("AWS_ACCOUNT_ID",)),
    ("profile", ("AWS_DEFAULT_PROFILE", "AWS_PROFILE")),
    ("region", ("AWS_DEFAULT_REGION",)),
)


def parse_dynamodb_url(url: str) -> str:
    """Return the table of a URL `dynamodb://TABLE`.

    Raises:
        ConfigError: if it is not such a URL. The message does not repeat it, since it may hold a secret.
    """
    table = url.removeprefix("dynamodb://").removesuffix("/")
    if not _TABLE.fullmatch(table):
        raise ConfigError(
            "invalid table in the registry URL dynamodb://…: expected 3 to 255 letters, digits, '_', '-' and '.'.",
            hint="Set the region by AWS_DEFAULT_REGION, and another endpoint by AWS_ENDPOINT_URL_DYNAMODB.",
        )
    return table


def dynamodb_identity(url: str, env: Mapping[str, str]) -> str:
    """Return the table with the account and region that the environment names, without secrets.

    An access key alone does not name its account. For tables of one name in one region, in accounts that differ by such
    keys only, each needs a cache of its own (`--cache`).
    """
    facts = []
    for name, variables in _NAMING:
        value = next((env[variable].strip() for variable in variables if env.get(variable, "").strip()), "")
        if name == "endpoint":
            value = value.partition("://")[2].partition("?")[0].rpartition("@")[2]
        if value:
            facts.append(f"{name}={value.rstrip('/')}/")
    return f"dynamodb://{''.join(facts)}{parse_dynamodb_url(url)}"


def check_boto3() -> None:
    """Check that boto3 is installed, without importing it.

    Raises:
        UsageError: if it is not.
    """
    from importlib.util import find_spec

    if find_spec("boto3") is None:
        raise UsageError(
            "A registry in DynamoDB needs the package boto3, which this Python does not have.",
            hint=f"Install it: {sys.executable} -m pip install boto3. {IF_PIP_REFUSES}",
        )
