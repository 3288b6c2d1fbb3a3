"""A model to ask, as a real HTTP server on 127.0.0.1: it can fail, stall, ramble, and counts what it was paid for."""

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from pipeline.core.schema import digest

Said = tuple[int, dict[str, str], bytes]
"""Status, headers and body of a response."""
TOKENS = (40, 7)
"""What every answer costs: tokens read and written."""


def grade(text: str) -> str:
    """An answer that depends on the text alone."""
    return json.dumps({"label": int(digest(text)[:6], 16) % 6, "reason": "because"})


def completion(said: Any, **more: Any) -> Said:
    """A chat completion, as an OpenAI-compatible server gives it."""
    usage = {"prompt_tokens": TOKENS[0], "completion_tokens": TOKENS[1]}
    choice = {"message": {"role": "assistant", "content": said}, "finish_reason": "stop"}
    return 200, {}, json.dumps({"choices": [choice], "usage": usage} | more).encode()


@dataclass
class Judge:
    """What a server does and has seen. `act(text, nth)` answers the nth (from 1) request for a text."""

    act: Callable[[str, int], Said]
    url: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    paid: Counter[str] = field(default_factory=Counter)
    seen: list[dict[str, Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stop: threading.Event = field(default_factory=threading.Event)


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A killed client is no news."""


@contextmanager
def judge(act: Callable[[str, int], Said] | None = None) -> Iterator[Judge]:
    """A judge at work until the block ends; by default one that grades."""
    told = Judge(act or (lambda text, nth: completion(grade(text))))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            text = body["messages"][-1]["content"].split("<file>\n")[-1].split("\n</file>")[0]
            with told.lock:
                told.asked[text] += 1
                nth = told.asked[text]
                told.seen.append({"path": self.path, "headers": dict(self.headers), "body": body})
            status, headers, said = told.act(text, nth)
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)
            except OSError:
                return
            if status == 200:
                with told.lock:
                    told.paid[text] += 1

        def log_message(self, *_: Any) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    told.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield told
    finally:
        told.stop.set()
        server.shutdown()
        server.server_close()


def slow(seconds: float) -> Callable[[str, int], Said]:
    """Grades, after a while."""

    def act(text: str, nth: int) -> Said:
        time.sleep(seconds)
        return completion(grade(text))

    return act
