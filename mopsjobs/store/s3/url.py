"""Parse a registry URL of S3. Pure, and without the SDK: the settings check the URL before a store is opened."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mopsjobs.errors import ConfigError
from mopsjobs.store.aws import settings

ENDPOINT_VARIABLE = "AWS_ENDPOINT_URL_S3"

FORM = "s3://BUCKET/PREFIX"

MAX_PREFIX = 120
"""Characters. S3 allows 1,024 bytes for a key, of which the keys of a store take up to 900 characters."""

DIRECTORY_BUCKETS = ("--x-s3", "--xa-s3")
"""Ends of the names of directory buckets, and of access points to them."""

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")

_SEGMENT = re.compile(r"[A-Za-z0-9_.-]+")

_NAMING = (settings.endpoint(ENDPOINT_VARIABLE), settings.PROFILE)


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
    return f"s3://{settings.facts_of(_NAMING, env)}{bucket}{f'/{prefix}' if prefix else ''}"
