"""The channel of a growing job: its runner tells clients on the same machine which tasks have ended, in milliseconds.

It is a shortcut and no more: what is told is on the disk before, and without a channel a client polls the store. The
runner listens on a socket. A file in the directory of the job has its address, and the key that both sides have to
know.

    -> {}                                                                   look for the next round
    <- [[NUMBER, {NAME: BASE64, …} or null, {"type", "message", …} or null], …]    tasks that have ended, once or again

Both are JSON, in messages of `multiprocessing.connection`. Nothing is pickled. With null twice, the outputs are large:
they are in the store.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import queue
import secrets
import socket
import struct
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Mapping
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from pathlib import Path
from typing import Any, NamedTuple

from mopsjobs.errors import RecordError
from mopsjobs.studies.packs import PACK_BYTES
from mopsjobs.utils.files import make_directory, replace_file
from mopsjobs.utils.json_strict import read_json

MAX_MESSAGE = 64 * 2**20
"""Bytes of a message."""

MESSAGE_BYTES = 2**20
"""Tasks that have ended share a message up to this size."""

KEPT_TASKS = 1000
"""Ends that a new client is told, at most: they may not be in the store yet."""

KEPT_BYTES = 2**20

GREETING_SECONDS = 5
"""How long one side waits for each word by which the other one proves that it knows the key."""

WAITING_CLIENTS = 16
"""Clients that may connect while a runner has no time."""

MAX_WAITING = 64 * 2**20
"""Bytes that wait for a client. One that takes none of them is left to the store."""


class ToldTask(NamedTuple):
    """A task that has ended, as a runner tells it."""

    number: int
    outputs: dict[str, bytes] | None
    """None also if they are large: the store has them."""
    error: Mapping[str, object] | None


class Channel:
    """The side of the runner. Thread-safe."""

    def __init__(self, path: Path, on_poke: Callable[[], object]) -> None:
        """Listen.

        Args:
            path: the file for address and key.
            on_poke: called by a thread when a client has stored a round.

        Raises:
            OSError: if this machine has no such sockets.
        """
        key = secrets.token_bytes(32)
        make_directory(path.parent)
        self._directory = tempfile.TemporaryDirectory(prefix="mops-jobs-", ignore_cleanup_errors=True)
        address = os.path.join(self._directory.name, "socket")  # that of the job may be too long for one
        self._on_poke, self._address, self._file = on_poke, address, path
        self._lock = threading.Lock()
        """Guards what follows."""
        self._peers: list[_Peer] = []
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._is_closing = False
        self._key = key
        self._listener = Listener(address, backlog=WAITING_CLIENTS)
        replace_file(str(path), json.dumps({"address": address, "key": key.hex()}).encode())
        self._thread = threading.Thread(target=self._accept, name="channel", daemon=True)
        self._thread.start()

    @property
    def has_clients(self) -> bool:
        """Return whether a client listens."""
        return bool(self._peers)

    def tell(self, number: int, outputs: Mapping[str, bytes] | None, error: Mapping[str, object] | None) -> None:
        """Tell of a task that has ended, whose outputs or attempt are on the disk."""
        if outputs is not None and sum(map(len, outputs.values())) > PACK_BYTES:
            outputs = None
        texts = None
        if outputs is not None:
            texts = {name: base64.b64encode(value).decode() for name, value in outputs.items()}
        message = json.dumps([number, texts, error and dict(error)]).encode()
        with self._lock:
            self._kept.append(message)
            self._kept_bytes += len(message)
            while self._kept_bytes > KEPT_BYTES or len(self._kept) > KEPT_TASKS:
                self._kept_bytes -= len(self._kept.popleft())
            self._peers = [peer for peer in self._peers if peer.put(message)]

    def close(self) -> None:
        """Tell the rest, and listen no more. Closing twice is harmless."""
        if self._is_closing:
            return
        self._is_closing = True
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as waker:
            waker.connect(self._address)  # a thread that waits for clients would not notice
        self._thread.join(1.0)
        with contextlib.suppress(OSError):
            self._listener.close()
        self._directory.cleanup()
        self._file.unlink(missing_ok=True)
        for peer in self._peers:
            peer.close()

    def _accept(self) -> None:
        while not self._is_closing:
            with contextlib.suppress(OSError):
                connection = self._listener.accept()
                threading.Thread(target=self._greet, args=(connection,), name="channel greeter", daemon=True).start()

    def _greet(self, connection: Connection) -> None:
        """Take a client that knows the key. One that says nothing keeps no other one waiting."""
        try:
            _prove(connection, self._key, deliver_challenge, answer_challenge)
        except (OSError, EOFError, AuthenticationError):
            return
        with self._lock:
            peer = _Peer(connection, self._on_poke)
            self._peers = [*self._peers, peer]
            for message in self._kept:
                peer.put(message)


def _prove(connection: Connection, key: bytes, *steps: Callable[[Connection, bytes], object]) -> None:
    """Let both sides of a connection prove that they know a key. It is closed if one does not.

    Raises:
        OSError, EOFError, AuthenticationError: if the other side does not, or says nothing.
    """
    try:
        with socket.socket(fileno=os.dup(connection.fileno())) as line:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", GREETING_SECONDS, 0))
            for step in steps:
                step(connection, key)
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))
    except BaseException as error:
        connection.close()
        if isinstance(error, AssertionError):  # of a Python whose greeting says so of another word
            raise AuthenticationError("no greeting") from None
        raise


class _Peer:
    """A client, as the runner sees it."""

    def __init__(self, connection: Connection, on_poke: Callable[[], object]) -> None:
        self._connection, self._on_poke = connection, on_poke
        self._messages: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._queued = self._sent = 0
        """Bytes. Each is counted by one thread alone."""
        self._is_gone = False
        self._writer = threading.Thread(target=self._write, name="channel writer", daemon=True)
        self._writer.start()
        threading.Thread(target=self._read, name="channel reader", daemon=True).start()

    def put(self, message: bytes) -> bool:
        """Queue a message. Return False if the client has gone, or takes none."""
        if self._is_gone or self._queued - self._sent > MAX_WAITING:
            self._messages.put(None)
            return False
        self._queued += len(message)
        self._messages.put(message)
        return True

    def close(self) -> None:
        """Send what is queued, unless the client takes too long, and hang up."""
        self._messages.put(None)
        self._writer.join(1.0)

    def _write(self) -> None:
        is_over = False
        with contextlib.suppress(OSError):
            while not is_over:
                batch, size = [self._messages.get()], 0
                while batch[-1] is not None and size < MESSAGE_BYTES and not self._messages.empty():
                    size += len(batch[-1])
                    batch.append(self._messages.get())
                is_over = batch[-1] is None
                told = [message for message in batch if message is not None]
                if told:
                    self._connection.send_bytes(b"[" + b",".join(told) + b"]")
                    self._sent += sum(map(len, told))
        self._is_gone = True
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as line:
            line.shutdown(socket.SHUT_RDWR)  # which the other thread notices

    def _read(self) -> None:
        with self._connection, contextlib.suppress(OSError, EOFError):
            while True:
                self._connection.recv_bytes(MESSAGE_BYTES)
                self._on_poke()
        self._is_gone = True
        self._messages.put(None)


class ChannelClient:
    """The side of a client. `poke` may be called beside `read`."""

    def __init__(self, path: Path) -> None:
        """Name the file of the channel; nothing is opened.

        Args:
            path: see `Channel`.
        """
        self._path = path
        self.connection: Connection | None = None
        """None without a runner on this machine that listens."""
        self._tried: object = None
        """The file with which no connection was made."""

    def connect(self) -> bool:
        """Connect, unless that was done. Return whether it was done now."""
        if self.connection is not None:
            return False
        with contextlib.suppress(OSError, EOFError, AuthenticationError, RecordError, ValueError, TypeError, KeyError):
            status = self._path.stat()
            identity = (status.st_ino, status.st_mtime_ns)
            if identity != self._tried:
                self._tried = identity
                document: Any = read_json(self._path.read_bytes())
                connection = Client(str(document["address"]))
                _prove(connection, bytes.fromhex(document["key"]), answer_challenge, deliver_challenge)
                self.connection = connection
                return True
        return False

    def poke(self) -> None:
        """Say that a round was stored."""
        connection = self.connection
        if connection is not None:
            with contextlib.suppress(OSError):  # `read` notices that the runner has gone
                connection.send_bytes(b"{}")

    def read(self) -> list[ToldTask]:
        """Return what the runner has told since the last call. Hang up if it has gone, or tells something else."""
        told: list[ToldTask] = []
        try:
            while self.connection is not None and self.connection.poll(0.0):
                document: Any = read_json(self.connection.recv_bytes(MAX_MESSAGE))
                told += [_parse(one) for one in document]
        except (OSError, EOFError, RecordError, ValueError, TypeError, LookupError, AttributeError):
            self.close()
        return told

    def close(self) -> None:
        """Hang up. Closing twice is harmless."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()


def _parse(fields: Any) -> ToldTask:
    number, outputs, error = fields
    if type(number) is not int or not (error is None or isinstance(error, dict)):
        raise ValueError(number)
    if outputs is not None:
        outputs = {str(name): base64.b64decode(text, validate=True) for name, text in outputs.items()}
    return ToldTask(number, outputs, error)
