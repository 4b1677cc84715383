import json
import os
import subprocess
import sys

import pytest

from clip_testkit.runyaml import MINIMAL
from clipctl import errorpolicy
from clipctl.cli import COMMANDS, main, root_command, usage
from clipctl.contract.errors import ClipError, ExitCode, UnavailableError


@pytest.fixture
def run_file(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    return str(path)


@pytest.fixture(autouse=True)
def _home(monkeypatch, tmp_path):
    monkeypatch.setenv("CLIPCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))


def all_commands():
    group = root_command()
    for name in COMMANDS:
        command = group.get_command(None, name)
        yield [name], command
        for inner, subcommand in getattr(command, "commands", {}).items():
            yield [name, inner], subcommand


def run_python(code):
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_is_static_text(arguments, capsys):
    assert main(arguments) == 0
    assert capsys.readouterr().out == usage()


def test_help_imports_nothing_heavy():
    code = "import sys; from clipctl.cli import main; main(['--help']); print(*sys.modules)"
    loaded = set(run_python(code).stdout.split())
    assert loaded.isdisjoint({"typer", "click", "rich", "pydantic", "yaml", "kubernetes", "fsspec", "torch", "numpy"})


def test_the_group_gives_the_same_help(capsys):
    # Reached when --help does not stand alone, and by completion.
    assert main(["--help", "--help"]) == 0
    assert capsys.readouterr().out == usage()


def test_no_command_imports_torch_or_numpy():
    modules = [f"clipctl.commands.{name}" for name in COMMANDS]
    extra = ["clipctl.render", "clipctl.apply", "clipctl.backends.kubernetes", "clipctl.exportcheckpoint"]
    data = ["clip_trainer.data.pack.pack", "clip_trainer.data.pack.input", "clip_trainer.data.index.dataset"]
    code = f"import importlib, sys\nfor m in {modules + extra + data}: importlib.import_module(m)\nprint(*sys.modules)"
    done = run_python(code)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()).isdisjoint({"torch", "numpy"})


def test_a_command_imports_only_its_own_module():
    code = "import sys; from clipctl.cli import main; main(['version']); print(*sys.modules)"
    loaded = {name for name in run_python(code).stdout.split() if name.startswith("clipctl.commands.")}
    assert loaded == {"clipctl.commands.version", "clipctl.commands.options"}


def test_every_command_has_help_json_and_a_description(capsys):
    seen = []
    for path, command in all_commands():
        seen.append(path)
        assert main([*path, "-h"]) == 0
        assert capsys.readouterr().out.startswith(f"Usage: clipctl {' '.join(path)} ")
        assert command.help, path
        if not hasattr(command, "commands"):
            options = {option for parameter in command.params for option in parameter.opts}
            assert "--json" in options, path
            assert all(getattr(p, "help", "") for p in command.params), path
    assert ["data", "pack"] in seen
    assert ["checkpoints", "export"] in seen


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["statu"], "error: there is no command 'statu'. Did you mean `status`?\n"),
        (["zzz"], "error: there is no command 'zzz'. See `clipctl -h`.\n"),
        (["--zzz"], "error: No such option: --zzz"),
        (["status"], "error: Missing argument 'NAME'. See `clipctl status -h`.\n"),
        (["version", "--zzz"], "error: No such option: --zzz"),
        (["logs", "x", "--rank", "-1"], "error: Invalid value for '--rank':"),
        (["version", "extra"], "error: Got unexpected extra argument"),
    ],
)
def test_usage_errors_are_one_paragraph_and_64(arguments, problem, capsys):
    assert main(arguments) == ExitCode.USAGE
    captured = capsys.readouterr()
    assert captured.err.startswith(problem)
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def test_errors_as_json(capsys):
    assert main(["render", "none.yaml", "--json"]) == ExitCode.MISSING
    error = json.loads(capsys.readouterr().err)["error"]
    assert error == {
        "code": 66,
        "problem": "none.yaml does not exist.",
        "hint": "Give the path of a run.yaml.",
    }


def test_version(capsys):
    assert main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["checkpoint_format"] == 2
    assert main(["version"]) == 0
    assert capsys.readouterr().out.startswith("clipctl ")


def test_schema(capsys):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "RunSpec"
    assert main(["schema", "--values"]) == 0
    assert json.loads(capsys.readouterr().out)["required"] == ["derived", "spec"]


def test_render_prints_yaml_json_values_or_writes_files(run_file, capsys, tmp_path):
    assert main(["render", run_file, "-n", "team"]) == 0
    assert "namespace: team" in capsys.readouterr().out
    assert main(["render", run_file, "--json"]) == 0
    assert [item["kind"] for item in json.loads(capsys.readouterr().out)][-1] == "PyTorchJob"
    assert main(["render", run_file, "--values", "--set", "train.steps=77"]) == 0
    assert json.loads(capsys.readouterr().out)["spec"]["train"]["steps"] == 77
    assert main(["render", run_file, "-o", str(tmp_path / "out")]) == 0
    assert sorted(capsys.readouterr().out.split()) == sorted(str(p) for p in (tmp_path / "out").iterdir())
    assert (tmp_path / "out" / "pytorchjob-demo-1.yaml").read_text().startswith("---\napiVersion: kubeflow.org/v1")


def test_render_into_something_that_is_no_directory_is_73(run_file, capsys):
    assert main(["render", run_file, "-o", run_file]) == ExitCode.CANNOT_CREATE
    assert "cannot write to" in capsys.readouterr().err


def test_a_wrong_file_lists_its_problems(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL.replace("steps: 10", "stepz: 10"))
    assert main(["submit", str(path), "--local"]) == ExitCode.USAGE
    lines = capsys.readouterr().err.splitlines()
    assert f"{path}:8:3 train.stepz: is not a field; did you mean `steps`?" in lines
    assert lines[-1] == "error: 1 problem."


def test_without_a_cluster_commands_say_what_to_do(run_file, capsys):
    assert main(["submit", run_file]) == ExitCode.CLUSTER_CONFIG
    assert "use --local" in capsys.readouterr().err
    assert main(["status", "demo"]) == ExitCode.MISSING
    assert "there is no local run demo, and no cluster to ask" in capsys.readouterr().err
    assert main(["list"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "no runs\n"
    assert "only local runs" in captured.err
    assert main(["list", "-n", "x"]) == ExitCode.CLUSTER_CONFIG


def test_local_dry_run_prints_the_trainers_config(run_file, capsys):
    assert main(["submit", run_file, "--local", "--dry-run", "--json"]) == 0
    (config,) = json.loads(capsys.readouterr().out)
    assert config["spec"]["name"] == "demo"
    assert len(config["spec_digest"]) == 64


@pytest.fixture
def failing(monkeypatch):
    def fail_with(error):
        def invoke(arguments):
            raise error

        monkeypatch.setattr("clipctl.app.invoke", invoke)

    return fail_with


def test_an_unexpected_exception_is_70_without_traceback(failing, capsys):
    failing(RuntimeError("secret=hunter2\nand more"))
    assert main(["version"]) == ExitCode.INTERNAL
    err = capsys.readouterr().err
    assert err.startswith("error: unexpected RuntimeError: secret=*** and more. Set CLIPCTL_DEBUG=1")
    assert err.count("\n") == 1


def test_debug_adds_the_traceback(failing, capsys, monkeypatch):
    monkeypatch.setenv("CLIPCTL_DEBUG", "1")
    failing(RuntimeError("boom"))
    assert main(["version"]) == ExitCode.INTERNAL
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    failing(UnavailableError("not there."))
    assert main(["version"]) == ExitCode.UNAVAILABLE
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("code", [code for code in ExitCode if code])
def test_every_documented_code_comes_through(failing, code, capsys):
    failing(ClipError("a problem.", hint="A hint.", code=code))
    assert main(["version"]) == code
    assert capsys.readouterr().err == "error: a problem. A hint.\n"


def test_interruption_is_130(failing):
    failing(KeyboardInterrupt())
    assert main(["version"]) == errorpolicy.INTERRUPTED

    class Abort(RuntimeError):
        pass

    failing(Abort())
    assert main(["version"]) == errorpolicy.INTERRUPTED


def test_a_reader_that_goes_away_is_no_error():
    code = "import sys; from clipctl.cli import main; sys.exit(main(['schema']))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.read(1)
        process.stdout.close()
        assert b"Traceback" not in process.stderr.read()
        process.wait()


def test_completion_scripts_and_completion(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--show-completion", "bash"])
    assert caught.value.code == 0
    assert "_CLIPCTL_COMPLETE" in capsys.readouterr().out
    environment = {**os.environ, "_CLIPCTL_COMPLETE": "complete_bash", "COMP_WORDS": "clipctl st", "COMP_CWORD": "1"}
    code = "import sys; from clipctl.cli import main; sys.exit(main([]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split() == ["status", "stop"]


def test_the_module_runs():
    done = subprocess.run([sys.executable, "-m", "clipctl"], capture_output=True, text=True, check=False)
    assert done.stdout == usage()
