"""Shards that commands print: run once, without a shell, whole or not at all."""

import sys
import threading

import pytest

from clip_trainer.data.storage.source_pipe import PipeSource, spool
from clipctl.contract.errors import CannotCreateError, CorruptError, MissingError, SpecError, UnavailableError


@pytest.fixture(autouse=True)
def allowed(monkeypatch):
    monkeypatch.setenv("CLIPCTL_ALLOW_PIPE", "1")


@pytest.fixture
def kept(tmp_path):
    return tmp_path / "kept"


def python(code):
    return f"pipe:{sys.executable} -c {code!r}"


def test_outputs_are_shards(tmp_path, kept):
    for number in range(3):
        (tmp_path / f"{number:02d}.x").write_bytes(bytes([number]) * 100)
    pipe = PipeSource(f"pipe:cat {tmp_path}/{{00..02}}.x", directory=kept)
    assert pipe.list_shards() == ("shard-000000.tar", "shard-000001.tar", "shard-000002.tar")
    assert pipe.info("shard-000001.tar")[:3] == ("shard-000001.tar", 100, None)
    assert pipe.read("shard-000002.tar", 98, 2) == b"\x02\x02"
    assert pipe.load("shard-000000.tar") == bytes(100)
    assert set(pipe.info_many(["shard-000000.tar", "shard-000009.tar"])) == {"shard-000000.tar"}
    assert not pipe.remote
    with pytest.raises(MissingError):
        pipe.info("shard-000003.tar")
    with pytest.raises(CorruptError):
        pipe.read("shard-000002.tar", 98, 3)
    with pytest.raises(CannotCreateError):
        pipe.save("x.tar", b"")


def test_a_command_runs_once_for_all_reads_sources_and_threads(tmp_path, kept):
    log = tmp_path / "log"
    command = python(f"open({str(log)!r}, 'a').write('x'); print('output')")
    sources = [PipeSource(command, directory=kept) for _ in range(4)]
    threads = [threading.Thread(target=source.load, args=("shard-000000.tar",)) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sources[0].load("shard-000000.tar") == b"output\n"
    assert log.read_text() == "x"


def test_commands_that_fail_say_why_and_leave_nothing(kept):
    failing = python("import sys; print('half'); print('one', file=sys.stderr); sys.exit('no such bucket')")
    pipe = PipeSource(failing, directory=kept)
    for _ in range(2):
        with pytest.raises(UnavailableError, match="failed with status 1: no such bucket"):
            pipe.read("shard-000000.tar", 0, 4)
    assert [path.suffix for path in kept.iterdir()] == [".lock"]


def test_a_killed_command_is_no_success(kept):
    pipe = PipeSource(python("import os; os.write(1, b'half'); os.kill(os.getpid(), 9)"), directory=kept)
    with pytest.raises(UnavailableError, match="status -9"):
        pipe.load("shard-000000.tar")


def test_there_is_no_shell(tmp_path, kept):
    canary = tmp_path / "canary"
    pipe = PipeSource(
        f"pipe:echo x ; touch {canary} $(touch {canary}) `touch {canary}` | cat > {canary}", directory=kept
    )
    assert pipe.load("shard-000000.tar").startswith(b"x ; touch")
    assert not canary.exists()


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("no-such-program-anywhere x", "cannot run"),
        ("'unclosed", "split into words"),
        ("", "no command"),
        ("/", "cannot run"),
    ],
)
def test_what_is_no_command(tmp_path, command, problem):
    with pytest.raises(SpecError, match=problem):
        spool(command, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_commands_must_be_allowed(monkeypatch, kept):
    monkeypatch.delenv("CLIPCTL_ALLOW_PIPE")
    with pytest.raises(SpecError, match="not run unless"):
        PipeSource("pipe:echo x", directory=kept)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CannotCreateError, match="cannot be written"):
        PipeSource("pipe:echo x", directory=tmp_path / "file" / "kept").load("shard-000000.tar")


def test_outputs_are_kept_in_the_cache_directory(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert PipeSource("pipe:echo x").load("shard-000000.tar") == b"x\n"
    assert len(list((tmp_path / "clipctl" / "pipe").glob("*.tar"))) == 1
