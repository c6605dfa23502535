"""A stand-in for Azure that has hundreds of thousands of jobs from the start: their listing lies ready in a file.

Azurite would take minutes to be filled. It looks at every blob that it has for each page of a listing, so time grows
with the registry whatever the reader does. This one answers what syncs and updates ask, in Azure's form: pages of
a listing with metadata, reads, and conditional writes. Container `first-N` has the first N jobs of the file.
"""

from __future__ import annotations

import base64
import bisect
import contextlib
import hashlib
import itertools
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

from bench import registry_data
from bench.azurite import Azurite
from bench.machine import ROOT
from mopsjobs.store.azure import listing

_ETAG = "0x8DA"
"""Of each blob as it lies in the file."""
_DATE = "Tue, 24 Nov 2026 00:00:00 GMT"


class _Blob(NamedTuple):
    etag: str
    value: bytes
    element: bytes


@contextlib.contextmanager
def running(directory: Path, jobs: int) -> Iterator[Azurite]:
    """Yield the server with that many jobs, while the block runs; it opens as Azurite does.

    Raises:
        RuntimeError: if it does not start.
    """
    argv = [sys.executable, "-m", "bench.static", str(directory / "listing.xml"), str(jobs)]
    with subprocess.Popen(argv, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("The stand-in for Azure did not start.")
            yield Azurite(int(line))
        finally:
            process.kill()


class _Account(ThreadingHTTPServer):
    """The jobs of the file, and for each container what was written since."""

    daemon_threads = True

    def __init__(self, path: Path, jobs: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.lock = threading.Lock()
        self.written: dict[str, dict[str, _Blob]] = {}
        self.keys: list[str] = []
        self.offsets = [0]
        self.etags = (f"0x8DB{number:08X}" for number in itertools.count())
        with path.open("wb") as file:
            for state in registry_data.states(jobs, datetime.now(UTC)):
                key, value = f"jobs/{state.job_id}/state.json", state.to_json()
                self.keys.append(key)
                self.offsets.append(self.offsets[-1] + file.write(_element(key, _ETAG, value, metadata=True)))
        self.file = path.open("rb")

    def find(self, container: str, key: str) -> _Blob | None:
        """Return a blob, or None."""
        if written := self.written.get(container, {}).get(key):
            return written
        place = bisect.bisect_left(self.keys, key, hi=_count(container))
        if place == _count(container) or self.keys[place] != key:
            return None
        element = self._elements(place, place + 1)
        packed = element.partition(f"<{listing.NAME}>".encode())[2].partition(b"<")[0]
        return _Blob(_ETAG, zlib.decompress(base64.b64decode(packed)), element)

    def page(self, container: str, prefix: str, marker: str, size: int, *, metadata: bool) -> tuple[bytes, str]:
        """Return a page of a listing, and where the next one begins."""
        written = self.written.get(container, {})
        if not prefix.startswith("jobs/"):
            found = sorted(key for key in written if key.startswith(prefix) and key >= marker)
            following = found[size] if len(found) > size else ""
            blobs = ((key, written[key]) for key in found[:size])
            return b"".join(_element(key, one.etag, one.value, metadata=metadata) for key, one in blobs), following
        first = bisect.bisect_left(self.keys, marker, hi=_count(container))
        last = min(first + size, _count(container))
        page = self._elements(first, last)
        for key, one in written.items():
            place = bisect.bisect_left(self.keys, key, first, last)
            if place < last and self.keys[place] == key:
                page = page.replace(self._elements(place, place + 1), one.element)
        return page, self.keys[last] if last < _count(container) else ""

    def _elements(self, first: int, last: int) -> bytes:
        with self.lock:
            self.file.seek(self.offsets[first])
            return self.file.read(self.offsets[last] - self.offsets[first])


class _Handler(BaseHTTPRequestHandler):
    server: _Account
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        container, key, query = self._target()
        if query.get("comp") == "list":
            page, following = self.server.page(
                container, query.get("prefix", ""), query.get("marker", ""), int(query.get("maxresults", 5000)),
                metadata="metadata" in query.get("include", ""),
            )  # fmt: skip
            head = f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="{container}"><Blobs>'
            tail = f"</Blobs><NextMarker>{following}</NextMarker></EnumerationResults>"
            self._reply(200, head.encode() + page + tail.encode(), {"Content-Type": "application/xml"})
            return
        blob = self.server.find(container, key)
        if blob is None:
            self._refuse(404, "BlobNotFound")
            return
        facts = {"ETag": f'"{blob.etag}"', "x-ms-blob-type": "BlockBlob"}
        self._reply(200, blob.value, {**facts, "Content-Type": "application/octet-stream", "Last-Modified": _DATE})

    def do_PUT(self) -> None:
        value = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        container, key, _ = self._target()
        with self.server.lock:
            written, etag = self.server.written.setdefault(container, {}), next(self.server.etags)
        found = self.server.find(container, key)
        if self.headers.get("If-None-Match") == "*" and found is not None:
            self._refuse(409, "BlobAlreadyExists")
        elif (wanted := self.headers.get("If-Match")) and (found is None or wanted != f'"{found.etag}"'):
            self._refuse(412, "ConditionNotMet")
        else:
            written[key] = _Blob(etag, value, _element(key, etag, value, metadata=True))
            self._reply(201, b"", {"ETag": f'"{etag}"', "Last-Modified": _DATE})

    def log_message(self, *_: object) -> None:
        """Do nothing: the benchmark's own output is enough."""

    def _target(self) -> tuple[str, str, dict[str, str]]:
        parts = urlsplit(self.path)
        container, _, key = unquote(parts.path).removeprefix("/").partition("/")[2].partition("/")
        return container, key, dict(parse_qsl(parts.query))

    def _refuse(self, status: int, code: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
        self._reply(status, body.encode(), {"Content-Type": "application/xml", "x-ms-error-code": code})

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _element(key: str, etag: str, value: bytes, *, metadata: bool) -> bytes:
    """Return a blob as Azure lists it."""
    md5 = base64.b64encode(hashlib.md5(value, usedforsecurity=False).digest()).decode()
    pairs = "".join(f"<{name}>{text}</{name}>" for name, text in listing.pack(value).items()) if metadata else ""
    return (
        f"<Blob><Name>{escape(key)}</Name><Properties><Creation-Time>{_DATE}</Creation-Time>"
        f"<Last-Modified>{_DATE}</Last-Modified><Etag>{etag}</Etag><Content-Length>{len(value)}</Content-Length>"
        f"<Content-Type>application/octet-stream</Content-Type>"
        f"<Content-MD5>{md5}</Content-MD5><BlobType>BlockBlob</BlobType>"
        f"<LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState></Properties>"
        f"<Metadata>{pairs}</Metadata></Blob>"
    ).encode()


def _count(container: str) -> int:
    return int(container.removeprefix("first-"))


if __name__ == "__main__":
    account = _Account(Path(sys.argv[1]), int(sys.argv[2]))
    print(account.server_address[1], flush=True)
    account.serve_forever()
