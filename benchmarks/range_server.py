"""A static server for one file on the loopback interface, made to cost as little as it can: `sendfile`, a thread each.

    python benchmarks/range_server.py FILE [CERTIFICATE_WITH_KEY]

It prints its port. Any path is the file; signatures are not looked at.
"""

from __future__ import annotations

import mmap
import os
import re
import socket
import ssl
import sys
import threading
from typing import BinaryIO

_RANGE = re.compile(rb"(?i)range: bytes=(\d+)-(\d*)")
_PIECE = 1 << 20


def answer(connection: socket.socket, requests: BinaryIO, file: BinaryIO, content: memoryview) -> bool:
    """Answer one request; False at the end of the connection."""
    line = requests.readline()
    if not line:
        return False
    size, wanted = len(content), None
    while (header := requests.readline()) not in (b"\r\n", b""):
        wanted = _RANGE.match(header) or wanted
    start, end = (int(wanted[1]), min(int(wanted[2] or size), size - 1)) if wanted else (0, size - 1)
    status = f"206 Partial Content\r\nContent-Range: bytes {start}-{end}/{size}" if wanted else "200 OK"
    head = f'HTTP/1.1 {status}\r\nContent-Length: {end - start + 1}\r\nETag: "v1"\r\n'
    head += "Last-Modified: Mon, 23 Nov 2026 08:00:00 GMT\r\nContent-Type: binary/octet-stream\r\n\r\n"
    connection.sendall(head.encode())
    if line.startswith(b"HEAD"):
        return True
    while start <= end:
        if isinstance(connection, ssl.SSLSocket):
            piece = content[start : min(start + _PIECE, end + 1)]
            connection.sendall(piece)
            start += len(piece)
        else:
            start += os.sendfile(connection.fileno(), file.fileno(), start, end + 1 - start)
    return True


def serve(connection: socket.socket, path: str, tls: ssl.SSLContext | None) -> None:
    """Answer a connection until it ends."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        content = memoryview(mapped)
        try:
            connection = tls.wrap_socket(connection, server_side=True) if tls else connection
            with connection, connection.makefile("rb") as requests:
                while answer(connection, requests, file, content):
                    pass
        except OSError:
            pass  # clients may hang up
        finally:
            content.release()


def main(path: str, certificate: str | None = None) -> None:
    """Serve until killed."""
    tls = None
    if certificate:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=serve, args=(connection, path, tls), daemon=True).start()


if __name__ == "__main__":
    main(*sys.argv[1:])
