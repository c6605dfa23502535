"""A stand-in for Azure that has hundreds of thousands of jobs from the start: `python -m bench.static JOBS`.

Azurite would take minutes to be filled, and looks at every blob that it has for each page of a listing. This one
answers what syncs and updates ask: pages with metadata, reads, and conditional writes. Container `first-N` has the
first N jobs.
"""

from __future__ import annotations

import base64
import bisect
import contextlib
import itertools
import sys
import threading
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape

from bench import proxy, registry_data
from bench.azurite import Azurite
from mopsjobs.store.azure import listing

_DATE = "Tue, 24 Nov 2026 00:00:00 GMT"


@contextlib.contextmanager
def running(jobs: int) -> Iterator[Azurite]:
    """Yield the server with that many jobs, while the block runs; it opens as Azurite does."""
    with proxy.started("bench.static", str(jobs)) as (_, port):
        yield Azurite(port)


class _Container:
    """Blobs by key, each as Azure lists it."""

    def __init__(self, blobs: dict[str, bytes]) -> None:
        self._blobs = blobs
        self._keys = sorted(blobs)
        self._etags = (f"0x8DB{number:08X}" for number in itertools.count())
        self.lock = threading.Lock()

    def etag(self, key: str) -> str | None:
        """Return the ETag of a blob; None if there is none."""
        return _between(self._blobs[key], "Etag") if key in self._blobs else None

    def value(self, key: str) -> bytes:
        """Return the value, which the metadata repeat."""
        return zlib.decompress(base64.b64decode(_between(self._blobs[key], listing.NAME)))

    def write(self, key: str, value: bytes) -> str:
        """Write a blob, and return its ETag."""
        if key not in self._blobs:
            bisect.insort(self._keys, key)
        etag = next(self._etags)
        self._blobs[key] = _element(key, etag, value)
        return etag

    def page(self, prefix: str, marker: str, size: int) -> bytes:
        """Return a page of a listing."""
        first = bisect.bisect_left(self._keys, max(prefix, marker))
        keys = [key for key in self._keys[first : first + size + 1] if key.startswith(prefix)]
        blobs = b"".join(self._blobs[key] for key in keys[:size])
        following = escape(keys[size]) if len(keys) > size else ""
        tail = f"</Blobs><NextMarker>{following}</NextMarker></EnumerationResults>"
        return b'<?xml version="1.0" encoding="utf-8"?><EnumerationResults><Blobs>' + blobs + tail.encode()


class _Account(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, jobs: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        states = ((f"jobs/{state.job_id}/state.json", state) for state in registry_data.states(jobs, datetime.now(UTC)))
        self._blobs = {key: _element(key, "0x8DA", state.to_json()) for key, state in states}
        self._containers: dict[str, _Container] = {}
        self._lock = threading.Lock()

    def container(self, name: str) -> _Container:
        with self._lock:
            if name not in self._containers:
                jobs = int(name.removeprefix("first-"))
                self._containers[name] = _Container(dict(itertools.islice(self._blobs.items(), jobs)))
            return self._containers[name]


class _Handler(BaseHTTPRequestHandler):
    server: _Account
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        container, key, query = self._target()
        with container.lock:
            if query.get("comp") == "list":
                size = int(query.get("maxresults", listing.MAX_PAGE_KEYS))
                self._reply(200, container.page(query["prefix"], query.get("marker", ""), size))
            elif etag := container.etag(key):
                self._reply(200, container.value(key), etag)
            else:
                self._refuse(404, "BlobNotFound")

    def do_PUT(self) -> None:
        value = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        container, key, _ = self._target()
        with container.lock:
            etag, wanted = container.etag(key), self.headers.get("If-Match")
            if self.headers.get("If-None-Match") == "*" and etag:
                self._refuse(409, "BlobAlreadyExists")
            elif wanted and wanted != f'"{etag}"':
                self._refuse(412, "ConditionNotMet")
            else:
                self._reply(201, b"", container.write(key, value))

    def log_message(self, *_: object) -> None:
        """Do nothing: the benchmark's own output is enough."""

    def _target(self) -> tuple[_Container, str, dict[str, str]]:
        parts = urlsplit(self.path)
        _, _, name, *key = unquote(parts.path).split("/", 3)
        return self.server.container(name), "".join(key), dict(parse_qsl(parts.query))

    def _refuse(self, status: int, code: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{code}</Message></Error>"
        self._reply(status, body.encode(), code=code)

    def _reply(self, status: int, body: bytes, etag: str = "", code: str = "") -> None:
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), "Last-Modified": _DATE, "x-ms-blob-type": "BlockBlob"}
        headers["Content-Type"] = "application/octet-stream" if etag else "application/xml"
        headers |= {"ETag": f'"{etag}"'} if etag else {}
        headers |= {"x-ms-error-code": code} if code else {}
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _element(key: str, etag: str, value: bytes) -> bytes:
    """Return a blob as Azure lists it."""
    pairs = "".join(f"<{name}>{text}</{name}>" for name, text in listing.pack(value).items())
    return (
        f"<Blob><Name>{escape(key)}</Name><Properties><Creation-Time>{_DATE}</Creation-Time>"
        f"<Last-Modified>{_DATE}</Last-Modified><Etag>{etag}</Etag><Content-Length>{len(value)}</Content-Length>"
        f"<Content-Type>application/octet-stream</Content-Type>"
        f"<Content-MD5>{listing.md5(value)}</Content-MD5><BlobType>BlockBlob</BlobType>"
        f"<LeaseStatus>unlocked</LeaseStatus><LeaseState>available</LeaseState></Properties>"
        f"<Metadata>{pairs}</Metadata></Blob>"
    ).encode()


def _between(element: bytes, name: str) -> str:
    return element.partition(f"<{name}>".encode())[2].partition(b"<")[0].decode()


if __name__ == "__main__":
    account = _Account(int(sys.argv[1]))
    print(account.server_address[1], flush=True)
    account.serve_forever()
