"""Posts NDJSON over several connections, one post at a time on each; a process of its own: its CPU is not counted.

``python client.py PORT POSTS EVENTS``: prints "ready" when connected, waits for a line, posts, prints "done".
"""

from __future__ import annotations

import socket
import sys
from itertools import cycle, islice

from lines import lines

CONNECTIONS = 8


def requests(posts: int, events: int) -> list[bytes]:
    found: list[bytes] = []
    whole = lines(posts * events)
    for start in range(0, len(whole), events):
        body = b"\n".join(whole[start : start + events]) + b"\n"
        head = (
            f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: {len(body)}"
        )
        found.append(head.encode() + b"\r\n\r\n" + body)
    return found


def answered(connection: socket.socket) -> None:
    """Read an answer to its end; it has a Content-Length, or is one without a body."""
    answer = b""
    while b"\r\n\r\n" not in answer:
        part = connection.recv(65_536)
        if not part:
            raise ConnectionError(f"closed after {answer!r}")
        answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    if not head.startswith((b"HTTP/1.1 202", b"HTTP/1.1 200")):
        raise AssertionError(answer)
    length = next((int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0)
    while len(body) < length:
        body += connection.recv(65_536)


def main() -> None:
    port, posts, events = map(int, sys.argv[1:])
    connections = [socket.create_connection(("127.0.0.1", port)) for _ in range(CONNECTIONS)]
    for connection in connections:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bodies = requests(posts, events)
    print("ready", flush=True)
    sys.stdin.readline()
    following = islice(cycle(bodies), posts)
    while batch := list(islice(following, CONNECTIONS)):
        for connection, request in zip(connections, batch, strict=False):
            connection.sendall(request)
        for connection, _ in zip(connections, batch, strict=False):
            answered(connection)
    print("done", flush=True)
    sys.stdin.readline()


if __name__ == "__main__":
    main()
