"""Parse a registry URL of DynamoDB. Pure, and without the SDK: the settings check the URL before a store is opened."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mopsjobs.errors import ConfigError
from mopsjobs.store.aws import settings

ENDPOINT_VARIABLE = "AWS_ENDPOINT_URL_DYNAMODB"

_TABLE = re.compile(r"[A-Za-z0-9_.-]{3,255}")

_NAMING = (settings.endpoint(ENDPOINT_VARIABLE), settings.ACCOUNT, settings.PROFILE, settings.REGION)


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
    return f"dynamodb://{settings.facts_of(_NAMING, env)}{parse_dynamodb_url(url)}"
