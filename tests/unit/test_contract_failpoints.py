"""The rules of failpoints: how they are written, when they act, and what they do."""

import errno
import json
import os
import signal
import subprocess
import sys

import pytest

from clipctl.contract import errors, failpoints
from clipctl.contract.errors import SpecError
from clipctl.contract.failpoint_rules import Rules
from clipctl.contract.failpoints import armed, failpoint
from clipctl.contract.store_local import LocalStore

NAME = "store.local.read"
OTHER = "store.local.list"


def test_nothing_is_looked_up_unless_something_is_armed(monkeypatch):
    monkeypatch.setattr(failpoints, "_armed", False)
    monkeypatch.setattr(failpoints, "_reached", None)  # calling it would fail
    failpoint(NAME)


def test_only_the_named_one_acts():
    with armed(f"{NAME}=raise") as fired:
        failpoint(OTHER)
        with pytest.raises(RuntimeError, match=NAME):
            failpoint(NAME)
    assert fired == [NAME]
    failpoint(NAME)


def test_several_rules():
    with armed(f"{NAME}=note;{OTHER}=note;") as fired:
        failpoint(OTHER)
        failpoint(NAME)
        failpoint(OTHER)
    assert fired == [OTHER, NAME, OTHER]


def test_the_rules_before_come_back():
    with armed(f"{NAME}=note") as outer:
        with armed(f"{OTHER}=note") as inner:
            failpoint(NAME)
        failpoint(NAME)
    assert (outer, inner) == ([NAME], [])


def test_only_the_third_time():
    with armed(f"{NAME}=error:corrupt@3") as fired:
        failpoint(NAME)
        failpoint(NAME)
        with pytest.raises(errors.CorruptError):
            failpoint(NAME)
        failpoint(NAME)
    assert fired == [NAME]


def chance(text, times=200):
    with armed(text) as fired:
        for _ in range(times):
            failpoint(NAME)
    return len(fired)


def pattern(text):
    hits = []
    with armed(text) as fired:
        for _ in range(64):
            failpoint(NAME)
            hits.append(len(fired))
    return hits


def test_with_a_probability_that_is_seeded():
    assert 20 < chance(f"{NAME}=note%0.25#1") < 80
    assert chance(f"{NAME}=note%0") == 0
    assert chance(f"{NAME}=note%1") == 200
    assert pattern(f"{NAME}=note%0.5#1") == pattern(f"{NAME}=note%0.5#1") != pattern(f"{NAME}=note%0.5#2")


def test_once_for_all_processes_that_share_the_directory(tmp_path):
    for expected in ([NAME], [], []):
        with armed(f"{NAME}=note!once", str(tmp_path)) as fired:
            failpoint(NAME)
            failpoint(NAME)
        assert fired == expected


def test_what_fired_is_written_down_before_it_acts(tmp_path):
    with armed(f"{NAME}=raise", str(tmp_path)), pytest.raises(RuntimeError):
        failpoint(NAME)
    assert (tmp_path / "fired").read_text().split()[:3] == [NAME, "raise", str(os.getpid())]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("spec", errors.SpecError),
        ("corrupt", errors.CorruptError),
        ("missing", errors.MissingError),
        ("unavailable", errors.UnavailableError),
        ("internal", errors.InternalError),
        ("cannot_create", errors.CannotCreateError),
        ("try_again", errors.TryAgainError),
        ("permission", errors.PermissionDeniedError),
        ("cluster_config", errors.ClusterConfigError),
    ],
)
def test_errors_of_users(kind, expected):
    with armed(f"{NAME}=error:{kind}"), pytest.raises(expected) as caught:
        failpoint(NAME)
    assert type(caught.value) is expected
    assert caught.value.problem == f"the failpoint {NAME} says so."


def test_every_kind_of_error_has_a_name():
    from clipctl.contract.failpoint_rules import _KINDS

    assert set(_KINDS.values()) == set(errors.ClipError.__subclasses__())


def test_errors_of_the_operating_system():
    with armed(f"{NAME}=os:ENOSPC"), pytest.raises(OSError, match="No space left") as caught:
        failpoint(NAME)
    assert caught.value.errno == errno.ENOSPC


def test_pauses(monkeypatch):
    slept = []
    monkeypatch.setattr("time.sleep", slept.append)
    with armed(f"{NAME}=pause:2.5"):
        failpoint(NAME)
    assert slept == [2.5]


@pytest.mark.parametrize(
    "text",
    [
        "store.local.read",
        "store.local.read=",
        "store.local.read=explode",
        "store.local.read=error",
        "store.local.read=error:nonsense",
        "store.local.read=os:ENOTHING",
        "store.local.read=os:strerror",
        "store.local.read=exit",
        "store.local.read=exit:soon",
        "store.local.read=pause:long",
        "store.local.read=kill:9",
        "store.local.read=kill@",
        "store.local.read=kill@x",
        "store.local.read=kill%1.2.3",
        "store.local.read=kill!twice",
        "store.local.read=kill store.local.list=kill",
        "no.such.name=kill",
    ],
)
def test_rules_that_make_no_sense(text):
    with pytest.raises(SpecError) as caught:
        Rules.parse(text)
    assert caught.value.hint


def test_once_needs_a_directory():
    with pytest.raises(SpecError, match="CLIPCTL_FAILPOINTS_DIR"):
        Rules.parse(f"{NAME}=kill!once")


PROGRAM = f"""
import json, sys
from clipctl.contract.errors import ClipError
from clipctl.contract.failpoints import failpoint
try:
    for _ in range(3):
        failpoint("{NAME}")
except ClipError as error:
    print(json.dumps([type(error).__name__, error.problem]))
print("end")
"""


def run(rules, directory=None):
    environment = {**os.environ, "CLIPCTL_FAILPOINTS": rules}
    if directory is not None:
        environment["CLIPCTL_FAILPOINTS_DIR"] = str(directory)
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines()


def test_in_a_process_the_variable_arms_them(tmp_path):
    assert run(f"{NAME}=kill@2", tmp_path) == (-signal.SIGKILL, [])
    assert (tmp_path / "fired").read_text().startswith(f"{NAME} kill ")
    assert run(f"{NAME}=exit:79") == (79, [])


def test_a_mistake_in_the_variable_is_an_error_like_others():
    status, output = run("nonsense")
    assert status == 0
    assert json.loads(output[0]) == ["SpecError", "the failpoint rule 'nonsense' is not well-formed."]


def test_a_stopped_process_goes_on_when_it_is_told_to():
    environment = {**os.environ, "CLIPCTL_FAILPOINTS": f"{NAME}=stop@1"}
    with subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        assert process.communicate()[0] == b"end\n"


def one_of_each(store):
    store.write("a", b"1")
    store.create("b", b"2")
    data, version = store.read_version("a")
    store.replace("a", data, version)
    store.list("")
    store.delete("b")


@pytest.mark.parametrize(
    "name",
    [
        "store.local.read",
        "store.local.staged",
        "store.local.written",
        "store.local.create",
        "store.local.created",
        "store.local.replace",
        "store.local.list",
        "store.local.delete",
    ],
)
def test_a_store_of_files_passes_its_failpoints(tmp_path, name):
    with armed(f"{name}=os:EIO@1") as fired, pytest.raises(errors.CannotCreateError, match="Input/output"):
        one_of_each(LocalStore(tmp_path))
    assert fired == [name]
    one_of_each(LocalStore(tmp_path))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp")] == []
