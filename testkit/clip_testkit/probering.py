"""The process group of the probe: sockets from every rank to rank 0, and nothing of torch."""

from __future__ import annotations

import contextlib
import functools
import operator
import socket
import struct
import threading
from collections.abc import Callable

from clip_trainer.elastic.beacon import current as beacon
from clip_trainer.elastic.membership import Generation

PEER_SECONDS = 60.0
_NUMBER = struct.Struct("!q")


class Rings:
    """Hosts and cuts rings; the hooks that `CoordinatedMembership` wants."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listeners: dict[int, socket.socket] = {}
        self._sockets: dict[int, list[socket.socket]] = {}
        self._cut: set[int] = set()

    def open_store(self) -> tuple[object, int]:
        """Listen for the other ranks of a generation to come."""
        listener = socket.create_server(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
        self._listeners[port] = listener
        return listener, port

    def listener(self, port: int) -> socket.socket:
        """What `open_store` made."""
        return self._listeners.pop(port)

    def use(self, generation: int, end: socket.socket) -> socket.socket:
        """Remember a socket of a generation, to cut it. Raises OSError if the generation is cut already."""
        with self._lock:
            self._sockets.setdefault(generation, []).append(end)
            if generation in self._cut:
                end.close()
                raise ConnectionResetError("a peer is gone")
        return end

    def cut(self, generation: int) -> None:
        """Make everything that waits in this generation fail at once; may come from another thread, or too early."""
        with self._lock:
            self._cut.add(generation)
            for end in self._sockets.get(generation, []):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def forget(self, generation: int) -> None:
        """Close the sockets of a generation."""
        with self._lock:
            for end in self._sockets.pop(generation, []):
                end.close()


class Ring:
    """One number per rank, combined by rank 0 and told to all. Every method raises OSError when a peer is gone."""

    def __init__(self, rings: Rings, generation: Generation) -> None:
        self._rings = rings
        self._generation = generation
        number = generation.number
        self._peers: list[socket.socket] = []
        if generation.world == 1:
            return
        if generation.rank == 0:
            listener = rings.use(number, rings.listener(generation.port))
            listener.settimeout(PEER_SECONDS)
            for _ in range(generation.world - 1):
                self._peers.append(rings.use(number, listener.accept()[0]))
        else:
            address = (generation.host, generation.port)
            self._peers.append(rings.use(number, socket.create_connection(address, PEER_SECONDS)))
        for peer in self._peers:
            peer.settimeout(PEER_SECONDS)

    def __enter__(self) -> Ring:
        return self

    def __exit__(self, *_: object) -> None:
        self._rings.forget(self._generation.number)

    def union(self, flags: int) -> int:
        """All ranks' flags, or-ed."""
        return self._combine(flags, lambda values: functools.reduce(operator.or_, values))

    def largest(self, value: int) -> int:
        """The largest of all ranks' values."""
        return self._combine(value, max)

    def _combine(self, mine: int, how: Callable[[list[int]], int]) -> int:
        with beacon().waiting_for_peers():
            if self._generation.rank != 0:
                self._peers[0].sendall(_NUMBER.pack(mine))
                return _receive(self._peers[0])
            total = how([mine, *[_receive(peer) for peer in self._peers]])
            for peer in self._peers:
                peer.sendall(_NUMBER.pack(total))
            return total


def _receive(peer: socket.socket) -> int:
    data = b""
    while len(data) < _NUMBER.size:
        chunk = peer.recv(_NUMBER.size - len(data))
        if not chunk:
            raise ConnectionResetError("a peer is gone")
        data += chunk
    return int(_NUMBER.unpack(data)[0])
