"""A proxy in front of the embedded S3 and SQS that goes wrong on order."""

from __future__ import annotations

import http.client
import re
import socket
import struct
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal

Kind = Literal["throttle", "deny", "lose_request", "lose_answer", "cut_answer", "hang"]

_HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}
# Status, code of S3, code of SQS.
_ERRORS = {"throttle": (503, "SlowDown", "ThrottlingException"), "deny": (403, "AccessDenied", "AccessDenied")}


@dataclass
class _Order:
    kind: Kind
    pattern: re.Pattern[str]
    times: int


class FaultProxy:
    """Passes requests on, but for those that an order of `inject` matches.

    A request is matched by one line: method, path with its query, and for SQS the operation, such as
    `POST / AmazonSQS.SendMessage`.
    """

    def __init__(self, target_port: int) -> None:
        self.requests: list[str] = []
        """Lines of all requests that came, whatever became of them."""
        self._orders: list[_Order] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self, target_port))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def inject(self, kind: Kind, pattern: str = "", times: int = 1) -> None:
        """Let the next requests that `pattern` is found in go wrong.

        `throttle` and `deny` answer with an error; `lose_request` resets the connection before the request takes
        effect, `lose_answer` after; `cut_answer` resets it in the middle of the body; `hang` never answers.
        """
        with self._lock:
            self._orders.append(_Order(kind, re.compile(pattern), times))

    def count(self, pattern: str) -> int:
        return sum(1 for line in self.requests if re.search(pattern, line))

    def next_fault(self, line: str) -> Kind | None:
        with self._lock:
            self.requests.append(line)
            for order in self._orders:
                if order.times > 0 and order.pattern.search(line):
                    order.times -= 1
                    return order.kind
            return None

    def hang(self) -> None:
        self._closing.wait()

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that went away are what the tests are about."""


def _handler(proxy: FaultProxy, target_port: int) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            target = self.headers.get("X-Amz-Target", "")
            fault = proxy.next_fault(f"{self.command} {self.path} {target}".strip())
            if fault == "hang":
                proxy.hang()
                self.reset()
            elif fault == "lose_request":
                self.reset()
            elif fault in _ERRORS:
                status, s3_code, sqs_code = _ERRORS[fault]
                if target:
                    text, kind = f'{{"__type": "com.amazonaws.sqs#{sqs_code}"}}', "application/x-amz-json-1.0"
                else:
                    text, kind = f"<Error><Code>{s3_code}</Code></Error>", "application/xml"
                self.answer(status, [("Content-Type", kind)], text.encode())
            else:
                status, headers, answer = self.forward(body)
                if fault == "lose_answer":
                    self.reset()
                else:
                    self.answer(status, headers, answer, cut=fault == "cut_answer")

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

        def forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
            upstream = http.client.HTTPConnection("127.0.0.1", target_port, timeout=60)
            try:
                headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
                upstream.request(self.command, self.path, body, headers)
                response = upstream.getresponse()
                content = response.read()
                kept = [(name, value) for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP]
                if self.command == "HEAD":
                    kept.append(("Content-Length", response.getheader("Content-Length") or "0"))
                return response.status, kept, content
            finally:
                upstream.close()

        def answer(self, status: int, headers: list[tuple[str, str]], body: bytes, *, cut: bool = False) -> None:
            self.send_response_only(status)
            for name, value in headers:
                self.send_header(name, value)
            if self.command != "HEAD":
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if cut else body)
            if cut:
                self.wfile.flush()
                self.reset()

        def reset(self) -> None:
            # Closing without lingering sends a reset instead of an orderly end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()

        def log_message(self, format: str, *args: Any) -> None:
            """Keep the tests' output clean."""

    return Handler
