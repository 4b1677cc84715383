"""Processes of the trainer: what they answer, tell and how they die."""

import json
import os
import signal
import sys
import textwrap

import pytest

from clip_trainer.data.progress import ProgressEvent
from clipctl import trainerprocess
from clipctl.contract.errors import InternalError, MissingError
from clipctl.trainerprocess import run_trainer


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that a process can run; returns its name."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    def write(code):
        (tmp_path / "pretended_work.py").write_text(textwrap.dedent(code))
        return "pretended_work"

    return write


def test_the_last_line_is_the_answer(module):
    name = module("""
        import json, sys
        print("a library says hello")
        print(json.dumps({"result": {"arguments": sys.argv[1:]}}))
    """)
    assert run_trainer(name, ["a", "--b"]) == {"arguments": ["a", "--b"]}


def test_progress_is_told_while_the_process_works(module, tmp_path):
    """The process goes on only after its first event has been seen."""
    name = module("""
        import json, sys, time
        from pathlib import Path
        from clip_trainer.data.progress import ProgressEvent
        from clip_trainer.jsonanswer import answer, tell

        def work(arguments):
            tell(ProgressEvent("check", 1, 2, 10, "a"))
            while not Path(arguments[0]).exists():
                time.sleep(0.01)
            tell(ProgressEvent("check", 2, 2, 20, "b"))
            return {"done": True}

        sys.exit(answer(work, sys.argv[1:]))
    """)
    events = []

    def seen(event):
        events.append(event)
        (tmp_path / "seen").touch()

    assert run_trainer(name, [str(tmp_path / "seen")], seen) == {"done": True}
    assert events == [ProgressEvent("check", 1, 2, 10, "a"), ProgressEvent("check", 2, 2, 20, "b")]


def test_progress_nobody_wants_is_passed_over(module):
    name = module("""
        import json
        print(json.dumps({"progress": {"stage": "x"}}))
        print(json.dumps({"result": {}}))
    """)
    assert run_trainer(name, []) == {}


def test_an_error_keeps_its_class_and_words(module):
    name = module("""
        import sys
        from clip_trainer.jsonanswer import answer
        from clipctl.contract.errors import MissingError

        def work(arguments):
            raise MissingError("no such thing.", hint="Look again.")

        sys.exit(answer(work, []))
    """)
    with pytest.raises(MissingError, match="no such thing") as caught:
        run_trainer(name, [])
    assert caught.value.hint == "Look again."


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("raise RuntimeError('what happened')", "status 1: RuntimeError: what happened"),
        ("import sys; sys.exit(3)", "status 3: it said nothing"),
        ("print('{\"progress\": {}}'); raise SystemExit(2)", "status 2: it said nothing"),
        ("print('[1, 2]')", "status 0: it said nothing"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", f"status -{int(signal.SIGKILL)}"),
    ],
)
def test_a_process_without_an_answer_is_a_bug(module, code, told):
    with pytest.raises(InternalError) as caught:
        run_trainer(module(code), [])
    assert told in caught.value.problem


def test_errors_may_be_longer_than_a_pipe_holds(module):
    name = module("""
        import json, sys
        sys.stderr.write("warning\\n" * 100_000)
        print(json.dumps({"result": {"ok": 1}}))
    """)
    assert run_trainer(name, []) == {"ok": 1}


def test_an_exception_ends_the_process(module, tmp_path):
    name = module("""
        import json, os, sys, time
        from pathlib import Path
        Path(sys.argv[1]).write_text(str(os.getpid()))
        event = {"stage": "x", "done": 0, "total": 1, "bytes_done": 0, "item": ""}
        print(json.dumps({"progress": event}), flush=True)
        time.sleep(600)
    """)

    def interrupted(event):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trainer(name, [str(tmp_path / "pid")], interrupted)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_without_torch_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr(trainerprocess.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingError) as caught:
        run_trainer("pretended_work", [])
    assert sys.executable in caught.value.problem
    assert "clipctl[trainer]" in caught.value.hint


def test_answers_are_one_line_each(capsys):
    from clip_trainer.jsonanswer import answer, tell

    tell(ProgressEvent("check", 1, 2, 3, "a\nb"))
    assert answer(lambda arguments: {"text": "a\nb"}, []) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(line) for line in lines] == [["progress"], ["result"]]
