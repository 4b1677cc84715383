"""Where the programs of the dashboard tests come from, and what is said when they cannot be had."""

import pytest

from clip_testkit.prometheus import Programs, find_programs, serving
from clipctl.contract.errors import ClusterConfigError, UnavailableError


def program(path, text="#!/bin/sh\nexit 0\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


APT = """#!/bin/sh
echo "apt-get $*" >> "$LOG"
[ "$1" = download ] || exit 0
[ -e "$LOG.offline" ] && { echo "no such host" >&2; exit 100; }
: > prometheus_2.42.0+ds-5_amd64.deb
"""
DPKG = """#!/bin/sh
/bin/mkdir -p "$3/usr/bin"
: > "$3/usr/bin/prometheus"
: > "$3/usr/bin/promtool"
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A PATH of our own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    return folder


def test_the_package_is_fetched_once_and_then_found_in_the_cache(path, tmp_path):
    program(path / "apt-get", APT)
    program(path / "dpkg", DPKG)
    cache = tmp_path / "cache"
    first = find_programs(cache)
    assert first.promtool == cache / "prometheus-2.42.0+ds-5" / "promtool"
    assert find_programs(cache) == first
    assert (tmp_path / "log").read_text().splitlines() == ["apt-get download prometheus"]
    assert sorted(found.name for found in cache.iterdir()) == ["prometheus-2.42.0+ds-5", "prometheus.lock"]


def test_programs_on_path_are_used_if_both_are_there(path, tmp_path):
    program(path / "prometheus")
    with pytest.raises(ClusterConfigError):
        find_programs(tmp_path / "cache")
    program(path / "promtool")
    assert find_programs(tmp_path / "cache").promtool == path / "promtool"


def test_a_system_without_apt_is_told_what_to_do(path, tmp_path):
    with pytest.raises(ClusterConfigError, match="no apt-get") as caught:
        find_programs(tmp_path / "cache")
    assert "on PATH" in caught.value.hint


def test_without_network_the_reason_is_told(path, tmp_path):
    program(path / "apt-get", APT)
    program(path / "dpkg", DPKG)
    (tmp_path / "log.offline").touch()
    with pytest.raises(UnavailableError, match="no such host"):
        find_programs(tmp_path / "cache")


def test_a_server_that_does_not_start_is_reported_with_its_log(path, tmp_path):
    broken = program(path / "prometheus", "#!/bin/sh\necho 'bad configuration'\nexit 3\n")
    with (
        pytest.raises(UnavailableError, match="ended with 3: bad configuration"),
        serving(Programs(broken, broken), tmp_path, []),
    ):
        pytest.fail("it cannot have started")
