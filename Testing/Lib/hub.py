"""A server on this machine that plays the hub: files with their sizes and digests, gates, and broken connections."""

from __future__ import annotations

import dataclasses
import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c" * 40


@dataclasses.dataclass
class Hub:
    """What the server has. `breaks` connections are broken in the middle; `status` is answered instead, if any.

    A size of None is told nowhere; without `ranges` a file is given from its start alone.
    """

    repository: str
    files: dict[str, bytes] = dataclasses.field(default_factory=dict)
    digests: dict[str, str] = dataclasses.field(default_factory=dict)
    sizes: dict[str, int | None] = dataclasses.field(default_factory=dict)
    breaks: int = 0
    ranges: bool = True
    status: int = 0
    error: str = ""
    asked: list[tuple[str, str, str, str]] = dataclasses.field(default_factory=list)
    address: str = ""

    def requests(self, method: str, file: str) -> list[tuple[str, str]]:
        """The ranges and tokens with which `file` was asked for."""
        return [(span, token) for how, path, span, token in self.asked if how == method and path.endswith(f"/{file}")]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Let the hub answer on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _answer(self, *, body: bool) -> None:
            span, token = self.headers.get("Range", ""), self.headers.get("Authorization", "")
            hub.asked.append((self.command, self.path, span, token))
            start = f"/{hub.repository}/resolve/main/"
            name = self.path.removeprefix(start)
            if hub.status or not self.path.startswith(start) or name not in hub.files:
                self._refuse(hub.status or 404, hub.error if hub.status else "EntryNotFound")
                return
            content = hub.files[name]
            span = span if hub.ranges else ""
            first = int(span.removeprefix("bytes=").rstrip("-")) if span else 0
            self.send_response(206 if span else 200)
            digest = hub.digests.get(name) or hashlib.sha256(content).hexdigest()
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Linked-Etag", f'"{digest}"')
            size = hub.sizes.get(name, len(content))
            if size is not None:
                self.send_header("X-Linked-Size", str(size))
                self.send_header("Content-Length", str(len(content) - first))
            self.send_header("ETag", f'"{digest}"')
            if span:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if not body:
                return
            if hub.breaks and not span:
                hub.breaks -= 1
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
                return
            # A client that was killed reads no more.
            with suppress(ConnectionError):
                self.wfile.write(content[first:])
            self.close_connection = size is None

        def _refuse(self, status: int, error: str) -> None:
            self.send_response(status)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("X-Error-Code", error)
            self.send_header("Content-Length", "0")
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
