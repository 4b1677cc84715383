"""The deadline of an exchange: every read looks at it, whatever the socket's own timeout says."""

import socket

import pytest

from clip_trainer.data.gather import transport as gather_transport
from clip_trainer.data.gather.transport import _connect_seconds, _TimedReader, exchange_within


@pytest.fixture
def clock(monkeypatch):
    """The time, to be set by tests."""
    now = [100.0]
    monkeypatch.setattr(gather_transport.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def pair():
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def test_reads_are_cut_at_the_deadline(clock, pair):
    near, far = pair
    near.settimeout(15.0)
    far.sendall(b"abc")
    with _TimedReader(near.makefile("rb", buffering=0), near) as reader, exchange_within(60.0):
        assert reader.readable()
        assert reader.read(1) == b"a"
        assert near.gettimeout() == 15.0, "the socket's own patience is shorter"
        clock[0] = 155.0
        assert reader.read(1) == b"b"
        assert near.gettimeout() == 5.0, "what is left of the exchange is shorter"
        clock[0] = 160.0
        with pytest.raises(TimeoutError, match="took too long"):
            reader.read(1)


def test_a_socket_without_a_timeout_has_the_deadline(clock, pair):
    near, far = pair
    near.settimeout(None)
    far.sendall(b"abc")
    with _TimedReader(near.makefile("rb", buffering=0), near) as reader, exchange_within(7.0):
        assert reader.read(3) == b"abc"
        assert near.gettimeout() == 7.0


def test_the_end_of_a_connection_is_an_end_and_closing_closes(clock, pair):
    near, far = pair
    near.settimeout(1.0)
    raw = near.makefile("rb", buffering=0)
    far.shutdown(socket.SHUT_WR)
    with exchange_within(5.0), _TimedReader(raw, near) as reader:
        assert reader.read(1) == b""
    assert raw.closed


@pytest.mark.parametrize(
    ("timeout", "later", "seconds"), [(10.0, 0.0, 10.0), (10.0, 55.0, 5.0), (10.0, 61.0, 0.0), (None, 20.0, 40.0)]
)
def test_connecting_counts_too(clock, timeout, later, seconds):
    with exchange_within(60.0):
        clock[0] += later
        assert _connect_seconds(timeout) == seconds


def test_exchanges_do_not_see_each_others_deadlines(clock):
    with exchange_within(60.0):
        with exchange_within(5.0):
            assert _connect_seconds(None) == 5.0
        assert _connect_seconds(None) == 60.0
    with pytest.raises(LookupError):
        _connect_seconds(None)
