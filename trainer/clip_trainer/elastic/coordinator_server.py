"""Serves a `Coordinator` over TCP: one thread, non-blocking sockets, in a process of its own or inside the agent.

No client can hurt another: what one sends is read in small portions, lines and unsent answers are bounded, and whoever
sends nonsense or does not read is hung up on.
"""

from __future__ import annotations

import contextlib
import resource
import selectors
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from clip_trainer.elastic.coordinator import Coordinator
from clip_trainer.elastic.protocol import LineBuffer, ProtocolError, decode, encode
from clip_trainer.elastic.run_members import Timing
from clip_trainer.elastic.sockets import prepare

TICK_SECONDS = 0.2
PING_SECONDS = 1.0
GREETING_SECONDS = 10.0
"""Whoever does not say hello for so long is hung up on."""
MAX_UNSENT = 4 << 20
_PORTION = 1 << 16
_PING = encode({"type": "ping"})


@dataclass
class _Client:
    """One connection."""

    end: socket.socket
    since: float
    lines: LineBuffer = field(default_factory=LineBuffer)
    unsent: bytearray = field(default_factory=bytearray)
    known: bool = False
    """It has said something that made sense."""
    leaving: bool = False
    """To be hung up on once everything is sent."""


class CoordinatorServer:
    """A coordinator that listens on `host`:`port`.

    Args:
        host: address to listen on.
        port: port; 0 takes a free one.
        timing: how long the coordinator waits for what.
        clock: seconds; monotonic.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family, backlog=1024)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._clock = clock
        self._coordinator = Coordinator(timing or Timing(), clock())
        self._clients: dict[int, _Client] = {}
        self._connections = 0
        self._most_clients = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
        self._next_ping = self._next_tick = clock()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> CoordinatorServer:
        """Serve in a thread of this process."""
        self._thread = threading.Thread(target=self.serve, name="coordinator", daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        """End serving and close every connection. May be called from a signal handler or another thread."""
        self._stopping.set()
        with contextlib.suppress(OSError):
            self._wake.send(b"x")
        if self._thread is not None:
            self._thread.join()

    def serve(self) -> None:
        """Serve in the calling thread until `stop`."""
        try:
            while not self._stopping.is_set():
                self._turn()
        finally:
            for client in self._clients.values():
                client.end.close()
            self._clients.clear()
            self._selector.close()
            for end in (self._listener, self._wake, self._woken):
                end.close()

    def _turn(self) -> None:
        """Everything that is ready now. Silence is judged last, after what has arrived meanwhile was read."""
        wait = max(0.0, min(self._next_tick, self._next_ping) - self._clock())
        for key, events in self._selector.select(wait):
            if key.fileobj is self._listener:
                self._accept()
            elif key.data is not None:
                self._serve_client(key.data, events)
        now = self._clock()
        if now >= self._next_tick:
            self._next_tick = now + TICK_SECONDS
            self._coordinator.tick(now)
            self._hang_up_strangers(now)
        if now >= self._next_ping:
            self._next_ping = now + PING_SECONDS
            for client in self._clients.values():
                client.unsent += _PING if not client.unsent else b""
        self._send_all()

    def _accept(self) -> None:
        try:
            end, address = self._listener.accept()
        except OSError:
            return  # it went away again, or this process is out of descriptors
        if len(self._clients) >= self._most_clients:
            end.close()
            return
        prepare(end)
        end.setblocking(False)
        self._connections += 1
        self._clients[self._connections] = _Client(end, self._clock())
        self._coordinator.connected(self._connections, address[0])
        self._selector.register(end, selectors.EVENT_READ, self._connections)

    def _serve_client(self, connection: int, events: int) -> None:
        client = self._clients.get(connection)
        if client is None or not events & selectors.EVENT_READ:
            return
        try:
            chunk = client.end.recv(_PORTION)
            lines = client.lines.feed(chunk)
            for line in lines:
                self._coordinator.received(connection, decode(line), self._clock())
                client.known = True
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        except ProtocolError as error:
            client.unsent += encode({"type": "dropped", "reason": f"protocol: {error}"})
            client.leaving = True
            self._selector.modify(client.end, selectors.EVENT_WRITE, connection)
            self._coordinator.disconnected(connection, self._clock())
            return
        if not chunk:
            self._hang_up(connection)

    def _hang_up_strangers(self, now: float) -> None:
        for connection, client in list(self._clients.items()):
            if client.leaving or (not client.known and now - client.since > GREETING_SECONDS):
                self._hang_up(connection)

    def _send_all(self) -> None:
        """Hand over what the coordinator has to say; hanging up may give it more to say."""
        while True:
            for connection, message in self._coordinator.take():
                client = self._clients.get(connection)
                if client is not None and message is not None:
                    client.unsent += encode(message)
                elif message is None:
                    self._hang_up(connection)
            for connection in [number for number, client in self._clients.items() if client.unsent]:
                self._flush(connection, self._clients[connection])
            if not self._coordinator.has_more:
                return

    def _flush(self, connection: int, client: _Client) -> None:
        try:
            sent = client.end.send(client.unsent)
            del client.unsent[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self._hang_up(connection)
            return
        if len(client.unsent) > MAX_UNSENT or (client.leaving and not client.unsent):
            self._hang_up(connection)
            return
        reading = 0 if client.leaving else selectors.EVENT_READ
        writing = selectors.EVENT_WRITE if client.unsent else 0
        self._selector.modify(client.end, reading | writing, connection)

    def _hang_up(self, connection: int) -> None:
        client = self._clients.pop(connection, None)
        if client is None:
            return
        self._selector.unregister(client.end)
        client.end.close()
        self._coordinator.disconnected(connection, self._clock())
