"""Parse registry URLs of AWS, and name a store by its settings. Pure, and without the SDK: a listing needs this."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from mopsjobs.errors import ConfigError

ACCOUNT = ("account", ("AWS_ACCOUNT_ID",))

PROFILE = ("profile", ("AWS_DEFAULT_PROFILE", "AWS_PROFILE"))

REGION = ("region", ("AWS_DEFAULT_REGION",))


def endpoint(variable: str) -> tuple[str, tuple[str, ...]]:
    """Return the fact of the endpoint, and the variables that set it: that of the service, then that of all."""
    return "endpoint", (variable, "AWS_ENDPOINT_URL")


def facts_of(naming: Sequence[tuple[str, tuple[str, ...]]], env: Mapping[str, str]) -> str:
    """Return the facts that the environment sets, as `name=value/` one after the other, without secrets."""
    facts = []
    for name, variables in naming:
        value = next((env[variable].strip() for variable in variables if env.get(variable, "").strip()), "")
        if name == "endpoint":
            value = value.partition("://")[2].partition("?")[0].rpartition("@")[2]
        if value:
            facts.append(f"{name}={value.rstrip('/')}/")
    return "".join(facts)


DYNAMODB_ENDPOINT = "AWS_ENDPOINT_URL_DYNAMODB"

_TABLE = re.compile(r"[A-Za-z0-9_.-]{3,255}")

_OF_TABLE = (endpoint(DYNAMODB_ENDPOINT), ACCOUNT, PROFILE, REGION)


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
    return f"dynamodb://{facts_of(_OF_TABLE, env)}{parse_dynamodb_url(url)}"


S3_ENDPOINT = "AWS_ENDPOINT_URL_S3"

FORM = "s3://BUCKET/PREFIX"

MAX_PREFIX = 120
"""Characters. S3 allows 1,024 bytes for a key, of which the keys of a store take up to 900."""

DIRECTORY_BUCKETS = ("--x-s3", "--xa-s3")
"""Ends of the names of directory buckets, and of access points to them."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

_SEGMENT = re.compile(r"[A-Za-z0-9_.-]+")

_OF_BUCKET = (endpoint(S3_ENDPOINT), PROFILE)


def parse_s3_url(url: str) -> tuple[str, str]:
    """Return the bucket and the prefix of a URL `s3://BUCKET/PREFIX`; the prefix is empty if it names none.

    Raises:
        ConfigError: if it is not such a URL. The message does not repeat it, since it may hold a secret.
    """
    bucket, _, prefix = url.removeprefix("s3://").removesuffix("/").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ConfigError(
            f"invalid bucket in the registry URL s3://…: expected {FORM}, "
            "with 3 to 63 lower-case letters, digits, '-' and '.' for the bucket.",
            hint="Set credentials as for the AWS CLI, and another endpoint by AWS_ENDPOINT_URL_S3.",
        )
    if bucket.endswith(DIRECTORY_BUCKETS):
        raise ConfigError(
            f"invalid bucket in the registry URL s3://{bucket}: expected a general purpose bucket. "
            "A directory bucket lists keys in no order, and a sync needs one.",
            hint="Use a bucket whose name does not end with --x-s3.",
        )
    segments = prefix.split("/") if prefix else []
    is_plain = all(_SEGMENT.fullmatch(segment) and segment not in (".", "..") for segment in segments)
    if not is_plain or len(prefix) > MAX_PREFIX:
        raise ConfigError(
            f"invalid prefix in the registry URL s3://{bucket}/…: expected up to {MAX_PREFIX} "
            "letters, digits, '_', '-', '.' and single slashes."
        )
    return bucket, prefix


def s3_identity(url: str, env: Mapping[str, str]) -> str:
    """Return the bucket and prefix, with the endpoint and the profile that the environment names, without secrets.

    The names of Amazon's buckets are unique in the world. A profile may name another endpoint.
    """
    bucket, prefix = parse_s3_url(url)
    return f"s3://{facts_of(_OF_BUCKET, env)}{bucket}{f'/{prefix}' if prefix else ''}"
