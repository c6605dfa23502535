"""What a registry URL of DynamoDB names. Pure, and without the SDK: the settings check it before anything is opened."""

from __future__ import annotations

import re
import sys

from mopsjobs.errors import ConfigError, UsageError

TYPE_CHECKING = False  # on the listing path, where typing is too dear

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
    """The table that `dynamodb://TABLE` names.

    Raises:
        ConfigError: it names none. The message does not repeat what might be a secret.
    """
    table = url.removeprefix("dynamodb://").removesuffix("/")
    if not _TABLE.fullmatch(table):
        raise ConfigError(
            "The registry URL dynamodb://… names no table: those have 3 to 255 letters, digits, '_', '-' and '.'.",
            hint="The region is set by AWS_DEFAULT_REGION, another endpoint by AWS_ENDPOINT_URL_DYNAMODB.",
        )
    return table


def dynamodb_identity(url: str, env: Mapping[str, str]) -> str:
    """The table with all that says in the environment which account and region it is in, without secrets.

    A bare access key does not say which account it is of. Who changes between accounts by such keys alone, with tables
    of one name in one region, gives each a cache of its own (`--cache`).
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
    """Look whether the library is here, without importing it.

    Raises:
        UsageError: it is not.
    """
    from importlib.util import find_spec

    if find_spec("boto3") is None:
        raise UsageError(
            "A registry in DynamoDB needs the package boto3, which this Python does not have.",
            hint=f"Get it: {sys.executable} -m pip install boto3",
        )
