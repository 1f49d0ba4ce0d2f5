"""A web server on this machine that serves the files of a folder, well or badly."""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

__all__ = ["Answer", "Web", "replace"]


@dataclass(frozen=True)
class Answer:
    """What is sent: `body`, of which it says that it has `promised` bytes; after `sent` of them
    the connection is dropped. It waits before all, and before every `piece` bytes."""

    status: int
    body: bytes
    whole: bytes = b""
    promised: int | None = None
    sent: int | None = None
    before: float = 0.0
    piece: int = 0
    between: float = 0.0


Spoil = Callable[[int, Answer], Answer]  # (number of the answer from 1 on, a good one) -> another


def honest(_: int, answer: Answer) -> Answer:
    return answer


class Web:
    """Serves `folder` at `url` until it is closed; notes every (path, first, last) asked for."""

    def __init__(self, folder: Path, spoil: Spoil = honest) -> None:
        self.folder = folder
        self.spoil = spoil
        self.asked: list[tuple[str, int | None, int | None]] = []
        self.lock = threading.Lock()
        self._port = 0
        self.back()
        self.url = f"http://127.0.0.1:{self._port}/"

    def __enter__(self) -> "Web":
        return self

    def __exit__(self, *_: object) -> None:
        self.away()

    def back(self) -> None:
        """Serves, at the same place as before."""
        self._server = _Server(("127.0.0.1", self._port), _handler(self))
        self._server.handle_error = lambda *_: None
        self._port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def away(self) -> None:
        """Refuses connections."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


class _Server(ThreadingHTTPServer):
    request_queue_size = 64  # with the five that are usual, every sixth waits for a second
    daemon_threads = True


def _handler(web: Web) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            first, last = map(int, found.groups()) if found else (None, None)
            path = unquote(self.path.lstrip("/"))
            with web.lock:
                web.asked.append((path, first, last))
                number = len(web.asked)
            file = web.folder / path
            if not file.is_file():
                self._send(web.spoil(number, Answer(404, b"nothing here")))
                return
            whole = file.read_bytes()
            body = whole if first is None else whole[first : last + 1]
            self._send(web.spoil(number, Answer(200 if first is None else 206, body, whole)))

        def _send(self, answer: Answer) -> None:
            time.sleep(answer.before)
            self.send_response(answer.status)
            length = len(answer.body) if answer.promised is None else answer.promised
            self.send_header("Content-Length", str(length))
            self.end_headers()
            body = answer.body[: answer.sent]
            for at in range(0, len(body), answer.piece or len(body) or 1):
                time.sleep(answer.between)
                self.wfile.write(body[at : at + (answer.piece or len(body))])
                self.wfile.flush()

        def log_message(self, *_: object) -> None:
            pass

    return Handler
