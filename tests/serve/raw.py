"""Requests as bytes on a socket, for clients that do what no library does."""

import json
import socket
from collections.abc import Iterator
from typing import Any


def connect(port: int) -> socket.socket:
    """A raw connection."""
    return socket.create_connection(("127.0.0.1", port), timeout=60)


def head(path: str, *headers: str, method: str = "POST") -> bytes:
    """The first lines of a request, the empty one included."""
    lines = [
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        "Content-Type: application/json",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def whole(path: str, body: object) -> bytes:
    """A request with its body."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return head(path, f"Content-Length: {len(data)}") + data


def answered(sock: socket.socket, lines: Any = None) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the next answer; `lines` is the socket's file, where it is kept."""
    lines = lines or sock.makefile("rb")
    status = int(lines.readline().split()[1])
    headers = dict(_headers(lines))
    if headers.get("transfer-encoding") == "chunked":
        return status, headers, b"".join(_chunks(lines))
    size = headers.get("content-length")
    return status, headers, lines.read(int(size)) if size else lines.read()


def _headers(lines: Any) -> Iterator[tuple[str, str]]:
    while (line := lines.readline().decode().strip()) != "":
        name, _, value = line.partition(":")
        yield name.lower(), value.strip()


def _chunks(lines: Any) -> Iterator[bytes]:
    while size := int(lines.readline(), 16):
        yield lines.read(size)
        lines.readline()
    lines.readline()


def sent(port: int, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """One raw request's answer on a connection of its own."""
    with connect(port) as sock:
        sock.sendall(data)
        return answered(sock)
