"""CPU seconds per gigabyte and megabytes per second of reading an object from S3: this project's engine and others.

    python benchmarks/s3_read.py                # plain HTTP and TLS, five rounds
    python benchmarks/s3_read.py --rounds 3 --megabytes 256

Every measurement is a process of its own against a server in another process (`range_server.py`), whose CPU time does
not count. The sides take turns, so that a busy machine slows all of them. Imports, credentials and one request to warm
the connection up are not measured. The wall time is that of a loopback interface whose server shares the machine: it
compares sides, it says nothing about a network.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import ipaddress
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

READ = 1 << 20  # bytes that the consumer takes at a time
RANGE = 8 << 20  # bytes of a range, where the side does not choose itself
BASE = "s3fs"


def own_reads(name: str) -> tuple[Callable[[], Any], Callable[[], Iterator[int]]]:
    """Our engine, one range after the other: what a worker that wants a block does."""
    from clip_trainer.data.storage.source_s3 import S3Source

    source = S3Source("s3://bucket")

    def read() -> Iterator[int]:
        info = source.info(name)
        for at in range(0, info.bytes, RANGE):
            yield len(source.read(name, at, min(RANGE, info.bytes - at), etag=info.etag))

    return lambda: source.read(name, 0, 1), read


def own_stream(name: str) -> tuple[Callable[[], Any], Callable[[], Iterator[int]]]:
    """Our engine, front to back with ranges read ahead: what indexing and verifying do."""
    from clip_trainer.data.storage.source import SequentialReader
    from clip_trainer.data.storage.source_s3 import S3Source

    source = S3Source("s3://bucket")

    def read() -> Iterator[int]:
        stream = SequentialReader(source, source.info(name), lambda chunk: None)
        while piece := stream.read(READ):
            yield len(piece)

    return lambda: source.read(name, 0, 1), read


def urllib3_reads(name: str) -> tuple[Callable[[], Any], Callable[[], Iterator[int]]]:
    """urllib3 alone, range after range: unsigned, and without any of the checks."""
    import urllib3

    pool = urllib3.PoolManager(ca_certs=os.environ.get("AWS_CA_BUNDLE"))
    url = f"{os.environ['AWS_ENDPOINT_URL_S3']}/bucket/{name}"

    def read() -> Iterator[int]:
        size = int(pool.request("HEAD", url).headers["Content-Length"])
        for at in range(0, size, RANGE):
            yield len(pool.request("GET", url, headers={"Range": f"bytes={at}-{min(at + RANGE, size) - 1}"}).data)

    return lambda: pool.request("HEAD", url), read


def s3fs_stream(name: str) -> tuple[Callable[[], Any], Callable[[], Iterator[int]]]:
    """s3fs as its documentation shows it: a file object with its default cache."""
    import s3fs

    files = s3fs.S3FileSystem(config_kwargs={"s3": {"addressing_style": "path"}})

    def read() -> Iterator[int]:
        with files.open(f"bucket/{name}", "rb") as file:
            while piece := file.read(READ):
                yield len(piece)

    return lambda: files.cat_file(f"bucket/{name}", start=0, end=1), read


SIDES = {
    "clipctl, ranges": own_reads,
    "clipctl, read ahead": own_stream,
    "urllib3, ranges": urllib3_reads,
    "s3fs": s3fs_stream,
}


def measure(side: str, name: str) -> dict[str, float]:
    """Read the object once, in this process."""
    warm_up, read = SIDES[side](name)
    warm_up()
    before, started = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    count = sum(read())
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu": cpu / count * 1e9, "rate": count / wall / 1e6, "bytes": count}


@contextlib.contextmanager
def server(file: Path, *certificate: Path) -> Iterator[int]:
    """The server in its own process; its port."""
    command = [sys.executable, str(Path(__file__).with_name("range_server.py")), str(file), *map(str, certificate)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


def make_certificate(path: Path) -> None:
    """A certificate for 127.0.0.1 that signs itself, with its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = builder.add_extension(x509.SubjectAlternativeName([address]), critical=False).sign(key, hashes.SHA256())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    path.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain) + made.public_bytes(pem))


def rounds(count: int, file: Path, environment: dict[str, str]) -> dict[str, list[dict[str, float]]]:
    """All sides in turn, `count` times, each in a process of its own."""
    results: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for number in range(count):
        sides = list(SIDES)
        for side in sides if number % 2 == 0 else reversed(sides):
            command = [sys.executable, __file__, "--side", side, "--name", file.name]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout)
            assert found["bytes"] == file.stat().st_size, f"{side} read something else"
            results[side].append(found)
    return results


def show(title: str, results: dict[str, list[dict[str, float]]]) -> None:
    """Medians with their range, and how many times the CPU of the first side each one takes."""

    def spread(side: str, what: str, digits: int) -> str:
        values = sorted(found[what] for found in results[side])
        return f"{statistics.median(values):.{digits}f} ({values[0]:.{digits}f}-{values[-1]:.{digits}f})"

    base = statistics.median(found["cpu"] for found in results[BASE])
    print(f"\n{title}\n{'':22}{'CPU-s/GB':>20}{'MB/s':>22}{'CPU of s3fs':>14}")
    for side in results:
        ratio = base / statistics.median(found["cpu"] for found in results[side])
        print(f"{side:22}{spread(side, 'cpu', 2):>20}{spread(side, 'rate', 0):>22}{'1/' + format(ratio, '.1f'):>14}")


def compare(count: int, megabytes: int) -> None:
    """Both protocols, all sides."""
    with tempfile.TemporaryDirectory() as folder:
        file, certificate = Path(folder, "object.tar"), Path(folder, "server.pem")
        file.write_bytes(os.urandom(megabytes << 20))
        make_certificate(certificate)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        environment |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
        environment |= {"AWS_CONFIG_FILE": f"{folder}/none", "AWS_CA_BUNDLE": str(certificate)}
        environment |= {"AWS_EC2_METADATA_DISABLED": "true"}
        for title, scheme, extra in (("plain HTTP", "http", ()), ("TLS 1.3", "https", (certificate,))):
            with server(file, *extra) as port:
                here = environment | {"AWS_ENDPOINT_URL_S3": f"{scheme}://127.0.0.1:{port}"}
                show(f"{title}, {megabytes} MiB, {count} rounds", rounds(count, file, here))


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--megabytes", type=int, default=512)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        print(json.dumps(measure(arguments.side, arguments.name)))
    else:
        compare(arguments.rounds, arguments.megabytes)


if __name__ == "__main__":
    main()
