"""The tools that break things do break them. They need root, and fail without it."""

import os
import select
import signal
import socket
import subprocess
import sys

import pytest

from clip_testkit.agents import process_state, wait_until
from clip_testkit.cgroups import cgroup
from clip_testkit.netns import network
from clip_testkit.tmpfs import small_disk

pytestmark = pytest.mark.chaos

PATIENCE = 120

GREEDY = "held = []\nfor _ in range(200):\n    held.append(bytearray(1 << 20))\n    held[-1][::4096] = b'x' * 256"


class TestCgroups:
    def test_a_process_over_its_memory_is_killed(self):
        with cgroup() as group:
            group.limit_memory(50 << 20)
            done = subprocess.run(group.command([sys.executable, "-c", GREEDY]), check=False, timeout=PATIENCE)
            assert done.returncode == -signal.SIGKILL
            group.limit_memory(1000 << 20)
            done = subprocess.run(group.command([sys.executable, "-c", GREEDY]), check=False, timeout=PATIENCE)
            assert done.returncode == 0

    def test_a_process_gets_a_share_of_a_core(self):
        code = (
            "import time\nbegan = time.monotonic()\nwhile time.process_time() < 0.5: pass\n"
            "print(time.monotonic() - began)"
        )
        with cgroup() as group:
            group.limit_processor(0.1)
            output = subprocess.check_output(group.command([sys.executable, "-c", code]), timeout=PATIENCE)
        assert float(output) > 2.5  # 0.5 s of work at a tenth of a core, less what the start has used up

    def test_a_frozen_process_does_nothing(self):
        with cgroup() as group:
            process = subprocess.Popen(
                group.command([sys.executable, "-c", "while True: print(1, flush=True)"]), stdout=subprocess.PIPE
            )
            with process:
                process.stdout.readline()
                group.freeze()
                os.set_blocking(process.stdout.fileno(), False)
                wait_until(lambda: not drained(process.stdout.fileno()), PATIENCE, "silence")
                group.freeze(False)
                wait_until(lambda: drained(process.stdout.fileno()), PATIENCE, "words")
                process.kill()

    def test_nothing_is_left(self):
        with cgroup() as group:
            process = subprocess.Popen(group.command(["sleep", "1000"]))
            wait_until(lambda: process.pid in group.pids, PATIENCE, "the process in its group")
        assert process.wait(PATIENCE) == -signal.SIGKILL


def drained(descriptor):
    try:
        return os.read(descriptor, 1 << 20)
    except BlockingIOError:
        return b""


SERVER = """
import socket
server = socket.create_server(("0.0.0.0", 7000))
print("ready", flush=True)
connection, _ = server.accept()
while data := connection.recv(100):
    connection.sendall(data)
"""
CLIENT = """
import socket, sys
connection = socket.create_connection(("{address}", 7000))
for line in sys.stdin:
    connection.sendall(line.encode())
    print(connection.recv(100).decode(), end="", flush=True)
"""


class TestNetwork:
    def test_packets_are_lost_silently_and_come_again(self):
        with network(2) as made:
            server = subprocess.Popen(made.command(0, [sys.executable, "-c", SERVER]), stdout=subprocess.PIPE)
            assert server.stdout.readline() == b"ready\n"
            code = CLIENT.format(address=made.address(0))
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            client = subprocess.Popen(made.command(1, [sys.executable, "-u", "-c", code]), **pipes)
            with server, client:
                assert echo(client, b"one\n") == b"one\n"
                made.pull(1)
                client.stdin.write(b"two\n")
                client.stdin.flush()
                os.set_blocking(client.stdout.fileno(), False)
                assert not waited_for_output(client, 1.0)
                assert client.poll() is None  # no error either
                made.plug(1)
                os.set_blocking(client.stdout.fileno(), True)
                assert client.stdout.readline() == b"two\n"  # TCP sends it again
                client.stdin.close()
            assert (client.returncode, server.returncode) == (0, 0)

    def test_hosts_do_not_see_the_machine(self):
        with network(1) as made, socket.create_server(("127.0.0.1", 0)) as here:
            code = f"import socket; socket.create_connection(('127.0.0.1', {here.getsockname()[1]}), 5)"
            done = subprocess.run(
                made.command(0, [sys.executable, "-c", code]), capture_output=True, check=False, timeout=PATIENCE
            )
            assert b"ConnectionRefusedError" in done.stderr

    def test_nothing_is_left(self):
        with network(1) as made:
            process = subprocess.Popen(made.command(0, ["sleep", "1000"]))
            assert process_state(process.pid) in "SRD"
            wait_until(lambda: "sleep" in command_of(process.pid), PATIENCE, "the program")
        assert process.wait(PATIENCE) == -signal.SIGKILL
        assert made._name not in subprocess.check_output(["ip", "netns", "list"], text=True)


def command_of(pid):
    with open(f"/proc/{pid}/comm") as file:
        return file.read()


def echo(client, line):
    client.stdin.write(line)
    client.stdin.flush()
    return client.stdout.readline()


def waited_for_output(client, seconds):
    return select.select([client.stdout], [], [], seconds)[0]


class TestSmallDisk:
    def test_it_fills_up_and_is_relieved(self, tmp_path):
        with small_disk(tmp_path / "disk", 1 << 20) as disk:
            (disk.path / "a").write_bytes(bytes(1000))
            disk.fill()
            assert disk.free == 0
            with pytest.raises(OSError, match="No space left"):
                (disk.path / "b").write_bytes(bytes(5000))
            disk.relieve()
            (disk.path / "b").write_bytes(bytes(5000))
            assert (disk.path / "a").read_bytes() == bytes(1000)
        assert not (tmp_path / "disk").exists()
