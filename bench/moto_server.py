"""Serve moto's S3 at a port of this machine: python bench/moto_server.py PORT.

moto looks at the condition of a write first, and writes afterwards. Its own server has a thread for each request, so
two writers could both find the condition true. Here one request is served after the other.
"""

from __future__ import annotations

import sys

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server


class _Handler(WSGIRequestHandler):
    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Print nothing."""


if __name__ == "__main__":
    application = DomainDispatcherApplication(create_backend_app)
    make_server("127.0.0.1", int(sys.argv[1]), application, request_handler=_Handler).serve_forever()
