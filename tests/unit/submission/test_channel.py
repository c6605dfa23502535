"""The channel between the runner and the clients of a growing job."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import closing
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path

import pytest

from mopsjobs.studies.packs import PACK_BYTES
from mopsjobs.submission.channel import Channel, ChannelClient, ToldTask
from support.runs import PATIENCE, until


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait long for the other side: on a busy machine, it answers after seconds."""
    monkeypatch.setattr("mopsjobs.submission.channel.GREETING_SECONDS", int(PATIENCE))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "channel.json"


def address_of(place: Path) -> str:
    return str(json.loads(place.read_text())["address"])


def heard(client: ChannelClient, count: int) -> list[ToldTask]:
    """Return what the runner tells, once it is this much."""
    told: list[ToldTask] = []

    def listen() -> bool:
        told.extend(client.read())
        return len(told) >= count

    until(listen, f"{count} tasks")
    return told


def open_channel(place: Path, on_poke: Callable[[], object] = lambda: None) -> closing[Channel]:
    return closing(Channel(place, on_poke))


def test_clients_are_told_of_tasks_also_of_earlier_ones(place: Path) -> None:
    """Outputs come with them, unless they are large."""
    with open_channel(place) as channel:
        channel.tell(0, {"result.json": b"\x00\xff"}, None)
        assert not channel.has_clients
        client = ChannelClient(place)
        assert client.connect()
        assert not client.connect()
        until(lambda: channel.has_clients)
        channel.tell(1, None, {"type": "ValueError", "message": "as asked"})
        channel.tell(2, {"large": bytes(PACK_BYTES + 1)}, None)
        assert heard(client, 3) == [
            (0, {"result.json": b"\x00\xff"}, None), (1, None, {"type": "ValueError", "message": "as asked"}),
            (2, None, None),
        ]  # fmt: skip
    until(lambda: client.read() == [] and client.connection is None, "the client to hang up")
    assert not place.exists()
    assert not client.connect()


def test_a_client_says_that_a_round_is_there(place: Path) -> None:
    """A client that has gone is forgotten."""
    poked = threading.Event()
    with open_channel(place, poked.set) as channel:
        client = ChannelClient(place)
        client.connect()
        client.poke()
        until(poked.is_set)
        client.close()

        def is_alone() -> bool:
            channel.tell(0, {}, None)
            return not channel.has_clients

        until(is_alone, "the channel to notice")


@pytest.mark.claim("The socket of a growing job needs a key in the private directory of the job")
def test_a_client_needs_the_key(place: Path) -> None:
    """Only its user can read it. The file that a killed runner left leads nowhere."""
    with open_channel(place) as channel:
        assert place.stat().st_mode & 0o077 == 0
        with pytest.raises(AuthenticationError):
            Client(address_of(place), authkey=b"other")
        channel.tell(0, {}, None)
        assert not channel.has_clients
        client = ChannelClient(place)
        assert client.connect()
        client.close()
        left = place.read_bytes()
    place.write_bytes(left)
    assert not ChannelClient(place).connect()


def test_a_client_that_says_nothing_keeps_nobody_waiting(place: Path) -> None:
    """Neither other clients nor the end of the runner; it may have been stopped."""
    with socket.socket(socket.AF_UNIX) as silent, open_channel(place) as channel:
        silent.connect(address_of(place))
        client = ChannelClient(place)
        assert client.connect()
        channel.tell(7, {}, None)
        assert heard(client, 1) == [(7, {}, None)]
        client.close()


def test_a_runner_that_says_nothing_is_left_to_the_store(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is not kept from reading the store, nor tries again with the same runner."""
    monkeypatch.setattr("mopsjobs.submission.channel.GREETING_SECONDS", 1)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind("")  # to an address that the system chooses
        silent.listen()
        address = silent.getsockname().decode()
        place.write_text(json.dumps({"address": address, "key": "00"}))
        client = ChannelClient(place)
        assert not client.connect()
        assert not client.connect()


@pytest.mark.parametrize("message", [b"x", b"[[0]]", b'[["0", null, null]]', b'[[0, {"a": "?"}, null]]', b"7"])
def test_a_client_hangs_up_on_anything_else(place: Path, message: bytes) -> None:
    """It then goes on by the store."""
    with open_channel(place) as channel:
        client = ChannelClient(place)
        client.connect()
        until(lambda: channel.has_clients)
        channel._peers[0]._connection.send_bytes(message)
        until(lambda: client.read() == [] and client.connection is None, "it to hang up")
