import json
import threading

import pytest

from clip_trainer.elastic.reconnect import Reconnect
from clip_trainer.elastic.rendezvous import StoreLostError
from clip_trainer.launch import checkpoint_grace, main
from clipctl.contract.errors import CorruptError, MissingError


@pytest.fixture
def config(tmp_path):
    def write(content):
        file = tmp_path / "run.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    return write


@pytest.mark.parametrize(("seconds", "grace"), [(60, 55), (5, 4), (10, 8), (3600, 3595)])
def test_workers_get_the_grace_period_less_a_reserve(config, seconds, grace):
    assert checkpoint_grace(config({"spec": {"scale": {"grace_seconds": seconds}}})) == grace


def test_default_grace(config):
    assert checkpoint_grace(config({"spec": {}})) == 55


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"spec": 3}', '{"spec": {"scale": {"grace_seconds": "x"}}}'])
def test_configuration_that_is_none(config, content):
    with pytest.raises(CorruptError, match=r"run\.json"):
        checkpoint_grace(config(content))


def test_missing_configuration(tmp_path):
    with pytest.raises(MissingError, match=r"nothing\.json"):
        checkpoint_grace(tmp_path / "nothing.json")


def test_errors_are_one_line_and_an_exit_code(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("CLIPCTL_PARENT_PID", raising=False)
    assert main([str(tmp_path / "nothing.json")]) == 66
    assert capsys.readouterr().out.startswith("[agent] cannot read the run's configuration")


def test_bad_settings_end_with_64(config, capsys, monkeypatch):
    monkeypatch.delenv("CLIPCTL_PARENT_PID", raising=False)
    monkeypatch.setenv("PET_NNODES", "lots")
    assert main([str(config({"spec": {}}))]) == 64
    assert "PET_NNODES" in capsys.readouterr().out


def test_reconnect_tries_until_it_succeeds():
    found, answers = object(), [StoreLostError("no"), StoreLostError("no")]
    connected = threading.Event()

    def connect():
        if answers:
            raise answers.pop()
        connected.set()
        return found

    search = Reconnect(connect, retry_seconds=0.001)
    assert connected.wait(10)
    while search.result() is None:
        pass
    assert search.result() is found


def test_cancelled_reconnect_ends():
    tried = threading.Event()

    def connect():
        tried.set()
        raise StoreLostError("no")

    search = Reconnect(connect, retry_seconds=60)
    assert tried.wait(10)
    search.cancel()
    assert search.result() is None
    for thread in threading.enumerate():
        if thread.name == "rendezvous-reconnect":
            thread.join(10)
    assert "rendezvous-reconnect" not in [thread.name for thread in threading.enumerate()]
