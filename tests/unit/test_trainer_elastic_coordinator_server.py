"""The coordinator's server on real sockets of this process; its turns are taken by hand, time is a number."""

import contextlib
import json
import os
import socket
import subprocess
import sys

import pytest

from clip_trainer.elastic import coordinator_server
from clip_trainer.elastic.coordinator_server import GREETING_SECONDS, PING_SECONDS, CoordinatorServer
from clip_trainer.elastic.protocol import MAX_LINE, encode
from clip_trainer.elastic.run_members import Timing


class Client:
    """A client that reads what is there after a turn of the server."""

    def __init__(self, server):
        self.server = server
        self.end = socket.create_connection(("127.0.0.1", server.port))
        self.end.setblocking(False)
        self.rest = b""

    def say(self, kind, **fields):
        self.end.sendall(encode({"type": kind, **fields}))
        return self

    def hello(self, member, maximum=2):
        bounds = {"min_members": 1, "max_members": maximum, "last_call": 0, "generation": 0, "members": []}
        return self.say("hello", run="run", member=member, node=member, slot=0, **bounds)

    def hear(self, kind):
        """The next message of this type; others are skipped. The server is turned until it is there."""
        while True:
            while b"\n" not in self.rest:
                chunk = self.receive()
                assert chunk, f"hung up before {kind}"
                self.rest += chunk
            line, _, self.rest = self.rest.partition(b"\n")
            message = json.loads(line)
            if message["type"] == kind:
                return message

    def receive(self):
        for _ in range(10_000):
            self.server._turn()
            with contextlib.suppress(BlockingIOError):
                return self.end.recv(1 << 16)
        raise AssertionError("the server says nothing")

    def is_hung_up(self):
        """Whether the server ends the connection, after whatever it says."""
        try:
            while self.receive():
                pass
        except ConnectionResetError:
            pass
        return True


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(coordinator_server, "TICK_SECONDS", 0.001)  # so that a turn never waits long
    return Clock()


@pytest.fixture
def server(clock):
    server = CoordinatorServer(timing=Timing(settle=0.0), clock=clock)
    # The clock of a test stands still: a turn must not wait for it.
    select = server._selector.select
    server._selector.select = lambda timeout: select(0.001)
    yield server
    server.stop()
    server.serve()  # ends at once, closing everything


@pytest.fixture
def connect(server):
    clients = []

    def make():
        clients.append(Client(server))
        return clients[-1]

    yield make
    for client in clients:
        client.end.close()


def test_members_form_a_generation(connect):
    first, second = connect().hello("a"), connect().hello("b")
    assert first.hear("welcome")["running"] is False
    second.hear("welcome")
    first.say("wait", generation=0)
    assert first.hear("formed")["members"] == ["a"]
    second.say("wait", generation=0)
    assert first.hear("changed")["broken"] is False
    first.say("wait", generation=1)
    lead = first.hear("lead")
    first.say("open", generation=lead["generation"], attempt=lead["attempt"], port=4000)
    formed = second.hear("formed")
    assert (formed["members"], formed["host"], formed["port"]) == (["a", "b"], "127.0.0.1", 4000)


def test_a_connection_that_ends_is_a_lost_member(connect):
    first, second = connect().hello("a"), connect().hello("b")
    for client in (first, second):
        client.hear("welcome")
    first.say("wait", generation=0)
    first.hear("formed")
    second.say("wait", generation=0)
    first.hear("changed")
    first.say("wait", generation=1)
    lead = first.hear("lead")
    first.say("open", generation=lead["generation"], attempt=lead["attempt"], port=4000)
    second.hear("formed")
    second.end.close()
    assert first.hear("changed") == {"type": "changed", "generation": 2, "broken": True}


@pytest.mark.parametrize(
    "nonsense",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x00\xee\n",
        b"{}\n",
        b'{"type":"wait","generation":0}\n',
        b"\0" * (MAX_LINE + 1),
    ],
)
def test_nonsense_is_hung_up_on_and_hurts_nobody(server, connect, nonsense):
    member = connect().hello("a")
    member.hear("welcome")
    stranger = connect()
    sent = 0
    with contextlib.suppress(ConnectionError):
        while sent < len(nonsense):
            with contextlib.suppress(BlockingIOError):
                sent += stranger.end.send(nonsense[sent:])
            server._turn()
    assert stranger.is_hung_up()
    member.say("wait", generation=0)
    assert member.hear("formed")["rank"] == 0


def test_whoever_speaks_another_protocol_is_told(connect):
    stranger = connect().say("explode")
    assert "protocol" in stranger.hear("dropped")["reason"]
    assert stranger.is_hung_up()


def test_a_member_that_speaks_nonsense_is_lost(connect):
    first, second = connect().hello("a"), connect().hello("a2")
    first.hear("welcome")
    first.say("wait", generation=0)
    first.hear("formed")
    second.hear("welcome")
    second.say("wait", generation=0)
    first.hear("changed")
    first.end.sendall(b"nonsense\n")
    assert first.is_hung_up()
    assert second.hear("formed")["members"] == ["a2"]


def test_whoever_does_not_say_hello_is_hung_up_on(clock, server, connect):
    stranger = connect()
    server._turn()
    clock.now += GREETING_SECONDS + 1
    assert stranger.is_hung_up()


def test_a_client_that_does_not_read_is_hung_up_on(monkeypatch, clock, server, connect):
    monkeypatch.setattr(coordinator_server, "MAX_UNSENT", 1000)
    reader, slow = connect().hello("a"), connect().hello("b")
    reader.hear("welcome")
    slow.hear("welcome")
    [victim] = [client for client in server._clients.values() if client.end.getpeername() == slow.end.getsockname()]
    victim.unsent += b" " * (64 << 20)  # more than any kernel buffers for it
    server._turn()
    assert len(server._clients) == 1
    reader.say("wait", generation=0)
    assert reader.hear("formed")


def test_unsent_answers_are_sent_when_there_is_room(server, connect):
    slow = connect().hello("a")
    slow.hear("welcome")
    [client] = server._clients.values()
    size = coordinator_server.MAX_UNSENT // 2
    client.unsent += b"\n" * size
    got = 0
    while got < size:
        got += len(slow.receive().strip(b" ")) or 1
    assert not client.unsent


def test_pings_are_sent_so_that_the_kernel_notices_a_vanished_machine(clock, server, connect):
    member = connect().hello("a")
    member.hear("welcome")
    clock.now += PING_SECONDS
    assert member.hear("ping") == {"type": "ping"}
    [client] = server._clients.values()
    assert client.end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    assert client.end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_silent_member_is_hung_up_on(clock, server, connect):
    member = connect().hello("a")
    member.hear("welcome")
    server._turn()
    for _ in range(15):
        clock.now += 1.0
        server._turn()
    assert member.is_hung_up()


def test_more_connections_than_the_process_can_have_are_refused(server, connect):
    member = connect().hello("a")
    member.hear("welcome")
    server._most_clients = 1
    assert connect().is_hung_up()
    member.say("wait", generation=0)
    assert member.hear("formed")


def test_observers_hear_the_end(connect):
    observer = connect().say("observe", run="run")
    member = connect().hello("a")
    member.hear("welcome")
    observer.say("close", code=66)
    assert member.hear("closed") == {"type": "closed", "code": 66}
    assert observer.hear("closed")["code"] == 66


def test_it_serves_in_a_thread_and_stops():
    server = CoordinatorServer().start()
    with socket.create_connection(("127.0.0.1", server.port)) as end:
        end.settimeout(60)
        end.sendall(encode({"type": "observe", "run": "run"}) + encode({"type": "close", "code": 0}))
        assert b"closed" in end.recv(1000)
        server.stop()
        with contextlib.suppress(ConnectionResetError):
            assert end.recv(1000) in (b"", b'{"type":"ping"}\n')
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", server.port)).close()


def test_the_same_port_can_be_taken_again_at_once():
    server = CoordinatorServer().start()
    with socket.create_connection(("127.0.0.1", server.port)):
        server.stop()
    again = CoordinatorServer(port=server.port).start()
    assert again.port == server.port
    again.stop()


def test_the_process_needs_no_torch(tmp_path):
    """What the coordinator's pod runs is small: importing torch costs it 3 s and half a gigabyte."""
    code = "import sys, clip_trainer.coordinator; print('torch' in sys.modules, 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.split() == ["False", "False"]
