"""Only addresses of the open internet are connected to, whatever a name resolves to, and whenever."""

import socket
import threading

import pytest

from clip_trainer.data.gather import address as gather_address
from clip_trainer.data.gather.address import connect, is_any, is_public
from clip_trainer.data.gather.errors import GatherError


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::808:808"]
)
def test_public_addresses(address):
    assert is_public(address)
    assert is_any(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "0.0.0.0",
        "10.0.0.1",
        "172.16.5.4",
        "192.168.1.1",
        "169.254.169.254",  # the metadata service of clouds
        "100.64.0.1",  # carrier-grade NAT; some clouds' metadata
        "192.0.0.192",
        "168.63.129.16",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fd00:ec2::254",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::a9fe:a9fe",  # NAT64 of 169.254.169.254
        "2002:7f00:1::",  # 6to4 of 127.0.0.1
    ],
)
def test_addresses_that_are_not_of_the_open_internet(address):
    assert not is_public(address)
    assert is_any(address)


@pytest.fixture
def names(monkeypatch):
    """Names and the addresses they have, in place of the resolver."""
    known = {}

    def resolve(host, port, **options):
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in known[host]]

    monkeypatch.setattr(gather_address.socket, "getaddrinfo", resolve)
    return known


@pytest.fixture
def dialled(monkeypatch):
    """Addresses that were dialled; those in `refusing` answer with an error."""
    calls = []

    def dial(family, address, timeout):
        calls.append(address[0])
        if address[0] in refusing:
            raise refusing[address[0]]
        return f"socket to {address[0]}"

    refusing = {}
    monkeypatch.setattr(gather_address, "_connected", dial)
    calls_and_refusals = (calls, refusing)
    return calls_and_refusals


def test_the_connection_goes_to_the_address_that_was_checked(names, dialled):
    names["rebinding.test"] = ["10.0.0.1", "8.8.8.8", "127.0.0.1"]
    assert connect("rebinding.test", 80, 5.0, is_public) == "socket to 8.8.8.8"
    assert dialled[0] == ["8.8.8.8"]


def test_a_name_without_a_public_address_is_refused_without_dialling(names, dialled):
    names["metadata.test"] = ["169.254.169.254"]
    with pytest.raises(GatherError) as caught:
        connect("metadata.test", 80, 5.0, is_public)
    assert (caught.value.reason, caught.value.transient) == ("private-address", False)
    assert "169.254.169.254" in caught.value.detail
    assert dialled[0] == []
    assert connect("metadata.test", 80, 5.0, is_any) == "socket to 169.254.169.254"


def test_numbers_in_disguise_are_resolved_before_they_are_judged():
    for host in ("2130706433", "0x7f.1", "127.1", "localhost", "[::1]"):
        with pytest.raises(GatherError) as caught:
            connect(host, 80, 5.0, is_public)
        assert caught.value.reason in ("private-address", "dns")


def test_all_addresses_are_tried(names, dialled):
    calls, refusing = dialled
    names["two.test"] = ["8.8.8.8", "9.9.9.9"]
    refusing["8.8.8.8"] = ConnectionRefusedError(111, "Connection refused")
    assert connect("two.test", 80, 5.0, is_public) == "socket to 9.9.9.9"
    refusing["9.9.9.9"] = TimeoutError()
    with pytest.raises(GatherError) as caught:
        connect("two.test", 80, 5.0, is_public)
    assert caught.value.reason == "connection"
    assert caught.value.transient
    assert calls == ["8.8.8.8", "9.9.9.9"] * 2


def test_timeouts_are_called_so(names, dialled):
    names["slow.test"] = ["8.8.8.8"]
    dialled[1]["8.8.8.8"] = TimeoutError()
    for timeout in (5.0, 0.0):
        with pytest.raises(GatherError) as caught:
            connect("slow.test", 80, timeout, is_public)
        assert (caught.value.reason, caught.value.transient) == ("timeout", True)
    assert len(dialled[0]) == 1, "without time left nothing is dialled"


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (socket.gaierror(socket.EAI_NONAME, "not known"), False),
        (socket.gaierror(socket.EAI_AGAIN, "temporary failure"), True),
        (UnicodeError("label too long"), False),
    ],
)
def test_names_that_do_not_resolve(monkeypatch, error, transient):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr(gather_address.socket, "getaddrinfo", fail)
    with pytest.raises(GatherError) as caught:
        connect("x" * 70 + ".test", 80, 5.0, is_public)
    assert (caught.value.reason, caught.value.transient) == ("dns", transient)


def test_a_real_connection():
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted = []
        thread = threading.Thread(target=lambda: accepted.append(server.accept()[0]))
        thread.start()
        with connect("127.0.0.1", server.getsockname()[1], 5.0, is_any) as client:
            thread.join()
            assert 0 < client.gettimeout() <= 5.0
        accepted[0].close()
    with pytest.raises(GatherError) as caught:
        connect("127.0.0.1", 1, 5.0, is_any)
    assert caught.value.reason == "connection"
