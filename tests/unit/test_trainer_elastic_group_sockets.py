"""Finding and closing the connections of a process group, tried on plain sockets of this process."""

import contextlib
import os
import socket

import pytest

from clip_trainer.elastic.group_sockets import Connection, connections, cut, listening_port, open_sockets


@pytest.fixture
def loopback():
    """Makes connections through one listener; everything is closed at the end."""
    with contextlib.ExitStack() as stack:
        before = open_sockets()
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

        def connect():
            client = stack.enter_context(socket.create_connection(server.getsockname()))
            accepted = stack.enter_context(server.accept()[0])
            return client, accepted

        yield before, server, connect


def test_the_listener_that_came_since_is_found(loopback):
    before, server, _ = loopback
    assert listening_port(before) == server.getsockname()[1]
    assert listening_port(open_sockets()) == 0


def test_both_ends_of_a_connection_through_the_port_are_found(loopback):
    before, server, connect = loopback
    client, accepted = connect()
    found = connections(before, [server.getsockname()[1]])
    assert {connection.descriptor for connection in found} == {client.fileno(), accepted.fileno()}


def test_connections_that_were_there_before_are_not_found(loopback):
    _, server, connect = loopback
    connect()
    now = open_sockets()
    client, accepted = connect()
    found = connections(now, [server.getsockname()[1]])
    assert {connection.descriptor for connection in found} == {client.fileno(), accepted.fileno()}


def test_connections_of_other_ports_are_not_found(loopback):
    before, _, connect = loopback
    connect()
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert connections(before, [other.getsockname()[1]]) == []
    assert connections(before, [0]) == []
    assert connections(before, []) == []


def test_listeners_and_other_kinds_of_sockets_are_not_connections(loopback):
    before, server, _ = loopback
    left, right = socket.socketpair()
    with left, right, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        datagrams.connect(server.getsockname())
        assert connections(before, [server.getsockname()[1]]) == []


def test_cutting_ends_the_stream_at_both_ends_and_keeps_the_descriptor(loopback):
    before, server, connect = loopback
    client, accepted = connect()
    mine = [found for found in connections(before, [server.getsockname()[1]]) if found.descriptor == client.fileno()]
    cut(mine)
    assert client.recv(1) == b""
    assert accepted.recv(1) == b""
    os.fstat(client.fileno())


def test_cutting_leaves_the_others_alone(loopback):
    before, server, connect = loopback
    client, accepted = connect()
    found = connections(before, [server.getsockname()[1]])
    one, other = connect()
    cut(found)
    one.sendall(b"x")
    assert other.recv(1) == b"x"
    assert client.recv(1) == b""
    assert accepted.recv(1) == b""


def test_a_descriptor_that_belongs_to_somebody_else_by_now_is_left_alone(loopback):
    _, _, connect = loopback
    client, accepted = connect()
    cut([Connection(client.fileno(), ("127.0.0.1", 1), ("127.0.0.1", 2))])
    client.sendall(b"x")
    assert accepted.recv(1) == b"x"


def test_a_closed_descriptor_is_no_error(loopback):
    before, server, connect = loopback
    client, accepted = connect()
    found = connections(before, [server.getsockname()[1]])
    client.close()
    accepted.close()
    cut(found)
    cut(found)


def test_a_descriptor_that_is_now_a_file_is_no_error(loopback, tmp_path):
    _, _, connect = loopback
    client, _ = connect()
    with (tmp_path / "file").open("wb") as file:
        cut([Connection(file.fileno(), client.getsockname(), client.getpeername())])
        file.write(b"still open")
    assert (tmp_path / "file").read_bytes() == b"still open"
