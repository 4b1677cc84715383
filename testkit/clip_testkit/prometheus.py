"""A real Prometheus for tests: Debian's package unpacked into the cache, started on loopback, asked, and stopped."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clip_testkit.cluster.shell import locked, run, tail, wait_until
from clipctl.contract.errors import ClusterConfigError, UnavailableError

PROGRAMS = ("prometheus", "promtool")
START_SECONDS = 60.0  # it takes 0.2 s on an idle machine
_NO_PROXY = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the server is on this machine


class Programs(NamedTuple):
    """Where the two programs are."""

    prometheus: Path
    promtool: Path


class Series(NamedTuple):
    """One element of an instant vector."""

    labels: Mapping[str, str]
    value: float


def find_programs(cache: Path) -> Programs:
    """The programs from `cache`, from PATH, or else from Debian's package, which then stays in `cache`.

    Raises:
        ClusterConfigError: there are none and this machine has no apt-get.
        UnavailableError: the package cannot be downloaded.
    """
    with locked(cache / "prometheus.lock"):
        return _cached(cache) or _on_path() or _fetched(cache)


def _cached(cache: Path) -> Programs | None:
    for folder in sorted(cache.glob("prometheus-*"), reverse=True):
        found = Programs(*(folder / name for name in PROGRAMS))
        if all(path.is_file() for path in found):
            return found
    return None


def _on_path() -> Programs | None:
    found = [shutil.which(name) for name in PROGRAMS]
    return Programs(*(Path(path) for path in found if path)) if all(found) else None


def _fetched(cache: Path) -> Programs:
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        raise ClusterConfigError(
            "Prometheus is needed for the dashboard tests; it is neither on PATH nor can it be fetched, because this "
            "system has no apt-get.",
            hint="Put prometheus and promtool, 2.42 or newer, on PATH.",
        )
    with tempfile.TemporaryDirectory(dir=cache) as name:
        folder = Path(name)
        package = _downloaded(folder)
        run(["dpkg", "-x", package, folder / "all"])
        version = package.name.split("_")[1].replace("%3a", ":")
        chosen = folder / "chosen"
        chosen.mkdir()
        for program in PROGRAMS:
            (folder / "all/usr/bin" / program).rename(chosen / program)
        target = cache / f"prometheus-{version}"
        shutil.rmtree(target, ignore_errors=True)  # incomplete, or it would have been used
        chosen.rename(target)
    return Programs(*(target / program for program in PROGRAMS))


def _downloaded(folder: Path) -> Path:
    try:
        run(["apt-get", "download", "prometheus"], cwd=folder, timeout=300)
    except UnavailableError:  # a fresh machine has no lists, or old ones
        if os.geteuid() == 0:
            run(["apt-get", "update", "-q"], timeout=300)
        try:
            run(["apt-get", "download", "prometheus"], cwd=folder, timeout=300)
        except UnavailableError as error:
            raise UnavailableError(
                f"Debian's package `prometheus` cannot be downloaded: {error.problem}",
                hint="Run apt-get update as root, or put prometheus and promtool on PATH.",
            ) from None
    (package,) = folder.glob("prometheus_*.deb")
    return package


@dataclass(frozen=True)
class Prometheus:
    """A running server.

    Attributes:
        url: base address.
    """

    url: str

    def query(self, expression: str) -> list[Series]:
        """Evaluate now; a scalar counts as a series without labels.

        Raises:
            ValueError: Prometheus refuses the expression.
        """
        answer = self._get("query", query=expression)
        if answer["resultType"] == "scalar":
            return [Series({}, float(answer["result"][1]))]
        return [Series(item["metric"], float(item["value"][1])) for item in answer["result"]]

    def label_values(self, label: str, selector: str) -> list[str]:
        """Values of a label over the selected series, as Grafana's `label_values(selector, label)` asks."""
        return list(self._get(f"label/{label}/values", **{"match[]": selector}))

    def targets(self) -> list[dict[str, Any]]:
        """What is scraped, with labels and last error."""
        return list(self._get("targets", state="active")["activeTargets"])

    def rules(self) -> list[dict[str, Any]]:
        """All rules with state, health and last error."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def _get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        try:
            with _NO_PROXY.open(f"{self.url}/api/v1/{path}?{query}", timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            with error:
                raise ValueError(f"{parameters}: {error.read().decode(errors='replace')}") from None


@contextmanager
def serving(
    programs: Programs,
    folder: Path,
    scrape_configs: Sequence[Mapping[str, Any]],
    rules: Mapping[str, Any] | None = None,
) -> Iterator[Prometheus]:
    """Run a server with its data in `folder` until the end of the block.

    Args:
        programs: from `find_programs`.
        folder: an existing empty folder.
        scrape_configs: as in prometheus.yml.
        rules: content of a rule file, evaluated every second.

    Raises:
        UnavailableError: it does not start; the text ends with its log.
    """
    rule_file = folder / "rules.json"
    rule_file.write_text(json.dumps(rules or {"groups": []}))
    config = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rule_file)],
        "scrape_configs": list(scrape_configs),
    }
    (folder / "prometheus.yml").write_text(json.dumps(config))  # JSON is YAML
    address = f"127.0.0.1:{_free_port()}"
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(_command(programs, folder, address), stdout=output, stderr=subprocess.STDOUT)
    try:
        _await_ready(f"http://{address}", process, log)
        yield Prometheus(f"http://{address}")
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _command(programs: Programs, folder: Path, address: str) -> list[str]:
    return [
        str(programs.prometheus),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]


def _await_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    def ready() -> bool:
        try:
            with _NO_PROXY.open(f"{url}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:  # nobody listens yet, or it still starts (503)
            return False

    def alive() -> None:
        if process.poll() is not None:
            raise UnavailableError(f"Prometheus ended with {process.returncode}: {tail(log.read_text())}")

    wait_until(ready, "the start of Prometheus", seconds=START_SECONDS, watch=alive)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
