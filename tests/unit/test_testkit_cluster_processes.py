"""Processes, leftovers, commands and the command line of the test cluster."""

import json
import os
import signal
import subprocess
import sys

import pytest

from clip_testkit.cluster import __main__ as program
from clip_testkit.cluster import binaries, cleanup, containerd, lifecycle, packages, shell
from clip_testkit.cluster.processes import Registry, start_ticks
from clip_testkit.cluster.settings import Settings
from clipctl.contract.errors import ClusterConfigError, ExitCode, UnavailableError

WAITS = "import signal, sys; print('ready', flush=True); signal.pause()"
IGNORES = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"


@pytest.fixture
def registry(tmp_path):
    found = Registry(tmp_path / "processes", tmp_path / "logs")
    yield found
    found.stop(*found.names(), grace=0)


@pytest.fixture
def settings(tmp_path):
    return Settings(cache=tmp_path, state=tmp_path / "cluster")


def start(registry, name, code):
    registry.start(name, [sys.executable, "-c", code])
    shell.wait_until(lambda: "ready" in registry.log_tail(name), "the start", seconds=60, interval=0.01)


def test_started_process_is_found_and_stopped(registry):
    start(registry, "one", WAITS)
    pid = registry.pid("one")
    assert pid is not None
    assert os.getsid(pid) == pid
    registry.require_alive("one")
    registry.stop("one")
    assert registry.pid("one") is None
    assert registry.names() == []
    assert start_ticks(pid) is None


def test_process_that_ignores_termination_is_killed(registry):
    start(registry, "stubborn", IGNORES)
    pid = registry.pid("stubborn")
    registry.stop("stubborn", grace=0)
    shell.wait_until(lambda: (registry.pid("stubborn"), start_ticks(pid))[1] is None, "the end", seconds=60)


def test_reused_process_id_is_not_touched(registry):
    """A record whose start time differs is about a process that is gone, whoever has its id now."""
    start(registry, "one", WAITS)
    pid = registry.pid("one")
    record = registry.records / "one.json"
    text = json.loads(record.read_text())
    record.write_text(json.dumps({**text, "start": text["start"] - 1}))
    assert registry.pid("one") is None
    registry.stop("one")
    assert start_ticks(pid) is not None
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_death_is_reported_with_the_end_of_the_log(registry):
    registry.start("short", [sys.executable, "-c", "print('why it ended')"])
    shell.wait_until(lambda: registry.pid("short") is None, "the end", seconds=60, interval=0.01)
    with pytest.raises(UnavailableError, match="short ended: why it ended"):
        registry.require_alive("short")


def test_unknown_and_unreadable_records_are_nothing(registry):
    assert registry.pid("never") is None
    registry.records.mkdir()
    (registry.records / "torn.json").write_text("{")
    assert registry.pid("torn") is None
    registry.stop("torn", "never")


def test_start_time_survives_parentheses_in_the_name(tmp_path):
    (tmp_path / "7").mkdir()
    fields = " ".join(["S", *map(str, range(4, 22)), "12345"])
    (tmp_path / "7" / "stat").write_text(f"7 (a) b (c) {fields}\n")
    assert start_ticks(7, tmp_path) == 12345
    (tmp_path / "7" / "stat").write_text(f"7 (a) b (c) Z{fields[1:]}\n")
    assert start_ticks(7, tmp_path) is None
    assert start_ticks(8, tmp_path) is None


def test_mounts_below_a_directory_deepest_first(tmp_path):
    mounts = "t /s/a tmpfs rw 0 0\nt /s/a/b\\040c tmpfs rw 0 0\nt /state tmpfs rw 0 0\nt /s ext4 rw 0 0\n"
    assert cleanup.mounts_below(tmp_path.__class__("/s"), mounts) == ["/s/a/b c", "/s/a"]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_cgroups_of_pods_are_removed_in_every_hierarchy(tmp_path, version):
    roots = [tmp_path] if version == "v2" else [tmp_path / "cpu", tmp_path / "memory"]
    for root in roots:
        (root / "kubepods" / "burstable" / "pod1" / "c1").mkdir(parents=True)
        (root / "other").mkdir()
    cleanup.remove_cgroups(tmp_path)
    for root in roots:
        assert sorted(path.name for path in root.iterdir()) == ["other"]


def test_shims_are_found_by_the_address_of_our_containerd(tmp_path, settings):
    address = str(settings.containerd_socket)
    for pid, words in {
        "10": ["/usr/bin/containerd-shim-runc-v2", "-namespace", "k8s.io", "-address", address],
        "11": ["/usr/bin/containerd-shim-runc-v2", "-namespace", "k8s.io", "-address", "/run/other.sock"],
        "12": ["grep", address],
        "self": [],
    }.items():
        (tmp_path / "proc" / pid).mkdir(parents=True)
        (tmp_path / "proc" / pid / "cmdline").write_bytes(b"\0".join(w.encode() for w in words) + b"\0")
    assert containerd.shims(settings, tmp_path / "proc") == [10]


def test_children_of_all_threads_are_found(tmp_path):
    for thread, children in {"5": "6 7 ", "8": ""}.items():
        (tmp_path / "5" / "task" / thread).mkdir(parents=True)
        (tmp_path / "5" / "task" / thread / "children").write_text(children)
    assert containerd.children(5, tmp_path) == [6, 7]
    assert containerd.children(9, tmp_path) == []


def test_run_returns_output_and_reports_failure():
    assert shell.run([sys.executable, "-c", "print(input())"], stdin="hello") == "hello\n"
    with pytest.raises(UnavailableError, match=r"(?s)exited 3: .*broken"):
        shell.run([sys.executable, "-c", "import sys; print('broken', file=sys.stderr); sys.exit(3)"])
    with pytest.raises(ClusterConfigError, match="no-such-program is not installed"):
        shell.run(["no-such-program"])
    with pytest.raises(UnavailableError, match="longer than"):
        shell.run([sys.executable, "-c", "import signal; signal.pause()"], timeout=0.05)


def test_waiting_ends_by_the_deadline_or_by_a_death():
    with pytest.raises(UnavailableError, match="the moon did not happen within 0 s"):
        shell.wait_until(lambda: False, "the moon", seconds=0)

    def died():
        raise UnavailableError("it died")

    with pytest.raises(UnavailableError, match="it died"):
        shell.wait_until(lambda: False, "the moon", seconds=60, watch=died)


def test_lock_excludes_another_process(tmp_path):
    code = f"import fcntl; fcntl.flock(open({str(tmp_path / 'd' / 'l')!r}, 'w'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    with shell.locked(tmp_path / "d" / "l"):
        assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 1
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


def test_build_without_go_is_one_clear_paragraph(settings, monkeypatch, capsys):
    monkeypatch.setattr(program, "from_environment", lambda: settings)
    monkeypatch.setenv("PATH", str(settings.cache))
    assert program.main(["build", "etcd"]) == ExitCode.CLUSTER_CONFIG
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "`go` is not on PATH" in message
    assert "KUBECONFIG" in message


def test_unknown_target_is_refused(settings):
    with pytest.raises(ClusterConfigError, match=r"unknown target 'minio'.*kubernetes"):
        binaries.build(settings, ["minio"])


def test_cached_binaries_need_no_go(settings, monkeypatch):
    monkeypatch.setenv("PATH", str(settings.cache))
    target = binaries.targets()["etcd"]
    settings.bin.mkdir()
    settings.binary("etcd", target.version).touch()
    assert binaries.build(settings, ["etcd"]) == [settings.binary("etcd", target.version)]


def test_failed_build_leaves_nothing_behind(settings, monkeypatch):
    def fail(out):
        (out / "etcd").write_text("half")
        raise UnavailableError("no network")

    monkeypatch.setattr(binaries, "targets", lambda: {"etcd": binaries.Target(("etcd",), "1", fail)})
    monkeypatch.setattr(binaries, "_require_go", lambda: None)
    with pytest.raises(UnavailableError, match="no network"):
        binaries.build(settings, ["etcd"])
    assert list(settings.bin.iterdir()) == []


def test_foreign_kubeconfig_is_honoured_and_our_own_is_not_foreign(settings, monkeypatch, tmp_path):
    monkeypatch.delenv("KUBECONFIG", raising=False)
    assert lifecycle.external_kubeconfig(settings) is None
    monkeypatch.setenv("KUBECONFIG", str(settings.kubeconfig))
    assert lifecycle.external_kubeconfig(settings) is None
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "theirs"))
    assert lifecycle.external_kubeconfig(settings) == tmp_path / "theirs"


@pytest.mark.parametrize(("answers", "message"), [([False], "does not answer"), ([True, False], "has no PyTorchJob")])
def test_foreign_cluster_that_cannot_serve_is_refused(settings, monkeypatch, tmp_path, answers, message):
    replies = iter(answers)
    monkeypatch.setattr(lifecycle, "succeeds", lambda argv: next(replies))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "theirs"))
    with pytest.raises(ClusterConfigError, match=message):
        lifecycle.up(settings)


def test_foreign_cluster_is_used_as_it_is(settings, monkeypatch, tmp_path):
    monkeypatch.setattr(lifecycle, "succeeds", lambda argv: True)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "theirs"))
    assert lifecycle.up(settings) == tmp_path / "theirs"
    assert list(tmp_path.iterdir()) == []


def test_without_root_the_cluster_is_refused(settings, monkeypatch):
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(packages.os, "geteuid", lambda: 1000)
    for command in (lifecycle.up, lifecycle.down):
        with pytest.raises(ClusterConfigError, match="needs root"):
            command(settings)


def test_status_of_nothing(settings):
    assert lifecycle.status(settings) == {"up": False}


def test_status_lists_processes_and_their_memory(settings):
    processes = lifecycle.registry(settings)
    start(processes, "etcd", WAITS)
    try:
        status = lifecycle.status(settings)
    finally:
        processes.stop("etcd")
    assert status["up"] is False
    assert status["resident_mib"]["etcd"] > 0
    assert status["processes"]["kubelet"] is None


def test_kubeconfig_command_prints_a_path(settings, monkeypatch, capsys):
    monkeypatch.delenv("KUBECONFIG", raising=False)
    monkeypatch.setattr(program, "from_environment", lambda: settings)
    assert program.main(["kubeconfig"]) == 0
    assert capsys.readouterr().out.strip() == str(settings.kubeconfig)


def test_prerequisites_script_names_the_package_of_each_program():
    text = (packages.repository_root() / "scripts" / "prerequisites.sh").read_text()
    package = {"ctr": "containerd", "ip": "iproute2", "nsenter": "", "readelf": "binutils"}
    for name in packages.PROGRAMS:
        assert package.get(name, name) in text
