"""As much of S3 as nbdkit's plug-in asks for: objects in a dict, over HTTP on 127.0.0.1.

Source: the Amazon S3 API Reference (GetObject, HeadObject, PutObject, ListObjectsV2, DeleteObjects). Nobody's signature is
looked at, and no list is cut into pages.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape


class S3(ThreadingHTTPServer):
    """`objects` by ``BUCKET/KEY``; every bucket is there."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: S3

    @property
    def _name(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/")

    def _answer(self, status: int, content: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if "list-type" in query:
            self._list(query.get("prefix", [""])[0], query.get("start-after", [""])[0])
            return
        content = self.server.objects.get(self._name)
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if content is None:
            self._answer(404, b"<Error><Code>NoSuchKey</Code><Message>there is no such key</Message></Error>")
        elif asked is None:
            self._answer(200, content)
        else:
            first, last = int(asked[1]), min(int(asked[2]), len(content) - 1)
            self._answer(206, content[first:last + 1], Content_Range=f"bytes {first}-{last}/{len(content)}")

    do_HEAD = do_GET

    def _list(self, prefix: str, after: str) -> None:
        bucket = self._name.rstrip("/") + "/"
        keys = sorted(name.removeprefix(bucket) for name in list(self.server.objects) if name.startswith(bucket + prefix))
        found = "".join(f"<Contents><Key>{escape(key)}</Key></Contents>" for key in keys if key > after)
        self._answer(200, f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>".encode())

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def do_PUT(self) -> None:
        self.server.objects[self._name] = self._body()
        self._answer(200)

    def do_POST(self) -> None:
        """DeleteObjects, the one request of this kind."""
        for key in ElementTree.fromstring(self._body()).findall(".//{*}Key"):
            self.server.objects.pop(f"{self._name.rstrip('/')}/{key.text}", None)
        self._answer(200, b"<DeleteResult/>")

    def log_message(self, format: str, *values: object) -> None:
        """Of what went well nothing is said."""


@contextmanager
def serving_s3() -> Iterator[S3]:
    """It serves in a thread until the end of the block."""
    with S3() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
