"""A private dynalite, a server of DynamoDB's API: on a free port of this machine, everything in memory."""

from __future__ import annotations

from pathlib import Path

from bench.node import NodeServer

ARGUMENTS = ("--host", "127.0.0.1", "--port", "{port}", "--createTableMs", "0")


def make_server(directory: Path) -> NodeServer:
    """Return a server that is not started yet. What it prints goes to a file in `directory`."""
    return NodeServer("dynalite", "cli.js", directory, ARGUMENTS)


def aws_env(port: int) -> dict[str, str]:
    """Return the environment in which boto3 talks to a port of this machine. Any signature is accepted there."""
    return {
        "AWS_ENDPOINT_URL_DYNAMODB": f"http://127.0.0.1:{port}",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "made-up-for-this-machine",
    }
