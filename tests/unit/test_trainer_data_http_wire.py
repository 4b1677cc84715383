"""The socket under http.client: nothing that arrived is lost when it breaks."""

import io
import socket
import threading

import pytest

from clip_trainer.data.storage.http_wire import Wire


class Source:
    """A socket that gives pieces, or raises them."""

    def __init__(self, *pieces):
        self.pieces, self.sent, self.closed = list(pieces), [], False

    def recv_into(self, buffer):
        piece = self.pieces.pop(0) if self.pieces else b""
        if isinstance(piece, Exception):
            raise piece
        taken, rest = piece[: len(buffer)], piece[len(buffer) :]
        if rest:
            self.pieces.insert(0, rest)
        buffer[: len(taken)] = taken
        return len(taken)

    def sendall(self, data):
        self.sent.append(bytes(data))

    def makefile(self, mode, buffering):
        assert (mode, buffering) == ("rb", 0)
        return io.BytesIO()

    def close(self):
        self.closed = True


def test_what_arrived_before_a_break_is_returned():
    wire = Wire(Source(b"abc", b"de", ConnectionResetError("reset"), b"never"))
    stream = wire.makefile("rb")
    assert stream.read(100_000) == b"abcde"
    assert isinstance(wire.error, ConnectionResetError)
    assert stream.read(100_000) == b""


def test_an_end_is_told_from_a_break():
    wire = Wire(Source(b"abc"))
    assert wire.makefile("rb").read(100) == b"abc"
    assert wire.error is None


@pytest.mark.parametrize("size", [1, 8192, 8193, 100_000])
def test_reads_of_any_size_are_exact(size):
    content = bytes(range(256)) * 500
    stream = Wire(Source(*(content[at : at + 7000] for at in range(0, len(content), 7000)))).makefile("rb")
    assert b"".join(iter(lambda: stream.read(size), b"")) == content


def test_a_deadline_ends_what_keeps_dripping():
    now = [0.0]
    wire = Wire(Source(*[b"x"] * 10), lambda: now[0])
    wire.deadline = 3.0
    received = 0
    while wire.receive_into(memoryview(bytearray(10))):
        received += 1
        now[0] += 1.0
    assert received == 3
    assert isinstance(wire.error, TimeoutError)


def test_large_bodies_are_sent_in_pieces_each_with_a_timeout_of_its_own():
    source = Source()
    data = bytes(range(256)) * 10_000
    Wire(source).sendall(data)
    assert b"".join(source.sent) == data
    assert len(source.sent) == 3
    Wire(source).sendall(b"")


def test_the_socket_stays_open_as_long_as_a_file_of_it():
    one, other = socket.socketpair()
    wire = Wire(one)
    stream = wire.makefile("rb")
    wire.close()
    writer = threading.Thread(target=lambda: (other.sendall(b"late"), other.close()))
    writer.start()
    assert stream.read(10) == b"late"
    writer.join()
    stream.close()
    assert one.fileno() == -1
