"""How boto3 talks to servers of AWS's APIs on this machine. Any signature is accepted there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def aws_env(service: str, port: int) -> dict[str, str]:
    """Return the environment in which boto3 talks to a port of this machine for a service, named as boto3 has it."""
    return {
        f"AWS_ENDPOINT_URL_{service.upper()}": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "made-up-for-this-machine",
    }


def plain_client(service: str, env: Mapping[str, str]) -> Any:
    """Return a client of the plain SDK in that environment. Close it."""
    import boto3

    return boto3.client(
        service,
        endpoint_url=env[f"AWS_ENDPOINT_URL_{service.upper()}"],
        region_name=env["AWS_DEFAULT_REGION"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
    )
