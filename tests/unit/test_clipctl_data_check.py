"""`clipctl data check`, `bench` and `stats`: what is asked of the trainer, and what is shown. No torch here."""

import json

import pytest

from clip_testkit.runyaml import MINIMAL
from clip_testkit.shards import write_dataset
from clip_trainer.data.check.histogram import histogram
from clip_trainer.data.index.dataset import index_dataset
from clipctl import trainerprocess
from clipctl.cli import main
from clipctl.contract.errors import ExitCode, MissingError

NOTHING = {"starts": [], "counts": [], "total": 0, "minimum": 0, "median": 0, "p95": 0, "maximum": 0, "mean": 0}
NONE_REPEATED = {"repeats": 0, "watched_share": 1.0, "examples": []}
CHECKED = {
    "data": "shards",
    "samples": 3,
    "seed": 0,
    "read": 3,
    "bytes": 300,
    "with_class": 0,
    "problems": {},
    "examples": {},
    "images": {
        "shorter_side": NOTHING,
        "aspect": NOTHING,
        "formats": {},
        "modes": {},
        "rotated_by_exif": 0,
        "duplicates": NONE_REPEATED,
    },
    "captions": {
        "count": 0,
        "samples": 0,
        "missing": {},
        "characters": NOTHING,
        "tokens": NOTHING,
        "cut": 0,
        "scripts": {},
        "duplicates": NONE_REPEATED,
    },
    "json_keys": {},
    "languages": {},
    "duplicate_keys": NONE_REPEATED,
    "previews": [],
    "sheet": None,
    "ok": True,
    "verdict": "OK: all is well",
}
MEASURED = {
    "data": "shards",
    "model": "ViT-B-32",
    "batch": 256,
    "threads": 2,
    "cpus": 2,
    "remote": False,
    "image_side": 100,
    "input_side": 224,
    "stages": {},
    "parse": None,
    "end_to_end": {"samples_per_second": 10, "cpu_us_per_sample": 20, "bytes": 0, "bytes_per_second": 0},
    "first_batch_seconds": 0.5,
    "held": 5,
    "unusable": 0,
    "advice": ["decode-bound: more CPUs."],
}


@pytest.fixture
def asked(monkeypatch):
    """The requests that would go to the trainer, with the module; `answer` is what comes back."""

    class Asked(list):
        answer = {}

    requests = Asked()

    def run_trainer(module, arguments, progress):
        requests.append((module.removeprefix("clip_trainer.data."), json.loads(arguments[0])))
        if isinstance(requests.answer, Exception):
            raise requests.answer
        return requests.answer

    monkeypatch.setattr(trainerprocess, "run_trainer", run_trainer)
    return requests


@pytest.fixture
def run_yaml(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL.replace("bucket/train\n", "bucket/train\n  threads: 5\n  max_replaced: 0.2\n"))
    return str(path)


class TestCheck:
    @pytest.fixture(autouse=True)
    def _answer(self, asked):
        asked.answer = CHECKED

    def test_defaults(self, asked, capsys):
        assert main(["data", "check", "shards"]) == 0
        ((module, request),) = asked
        assert module == "check.command"
        assert request["data"]["train"] == "shards"
        assert {name: request[name] for name in request if name != "data"} == {
            "samples": 1000,
            "seed": 0,
            "max_bad": 0.01,
            "previews": 8,
            "sheet": None,
        }
        assert capsys.readouterr().out.splitlines()[-1] == "OK: all is well"

    def test_options(self, asked):
        command = ["data", "check", "a::b", "--samples", "5", "--seed", "3", "--max-bad", "0.5", "--previews", "0"]
        assert main([*command, "--sheet", "x.png", "--name", "clean"]) == 0
        ((_, request),) = asked
        assert request["data"]["index"] == "clean"
        assert [request[name] for name in ("samples", "seed", "max_bad", "previews", "sheet")] == [
            5,
            3,
            0.5,
            0,
            "x.png",
        ]

    def test_all(self, asked):
        assert main(["data", "check", "shards", "--all"]) == 0
        assert asked[0][1]["samples"] is None

    def test_a_run_yaml_says_how_much_is_tolerated(self, asked, run_yaml):
        assert main(["data", "check", run_yaml]) == 0
        assert asked[0][1]["data"]["train"] == "s3://bucket/train"
        assert asked[0][1]["max_bad"] == 0.2
        assert main(["data", "check", run_yaml, "--max-bad", "0"]) == 0
        assert asked[1][1]["max_bad"] == 0

    def test_a_bad_data_set_exits_65(self, asked, capsys):
        asked.answer = {**CHECKED, "ok": False, "verdict": "BAD: 1 of 3"}
        assert main(["data", "check", "shards"]) == ExitCode.CORRUPT
        assert capsys.readouterr().out.endswith("BAD: 1 of 3\n")
        assert main(["data", "check", "shards", "--json"]) == ExitCode.CORRUPT
        assert json.loads(capsys.readouterr().out) == asked.answer

    def test_errors_have_their_exit_codes(self, asked, capsys):
        asked.answer = MissingError("shards does not exist.", hint="Check it.")
        assert main(["data", "check", "shards"]) == ExitCode.MISSING
        assert capsys.readouterr().err == "error: shards does not exist. Check it.\n"
        assert main(["data", "check", "pipe:x"]) == ExitCode.USAGE
        assert main(["data", "check", "shards", "--max-bad", "2"]) == ExitCode.USAGE

    def test_control_characters_do_not_reach_the_terminal(self, asked, capsys):
        asked.answer = {**CHECKED, "problems": {"\x1b[31mred": 1}, "verdict": "OK \x07"}
        assert main(["data", "check", "shards"]) == 0
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "\x07" not in out


class TestBench:
    @pytest.fixture(autouse=True)
    def _answer(self, asked):
        asked.answer = MEASURED

    def test_defaults(self, asked, capsys):
        assert main(["data", "bench", "shards"]) == 0
        ((module, request),) = asked
        assert module == "bench.command"
        assert {name: request[name] for name in request if name != "data"} == {
            "model": "ViT-B-32",
            "batch": 256,
            "threads": None,
            "seconds": 5.0,
            "batches": None,
        }
        assert capsys.readouterr().out.splitlines()[-1] == "decode-bound: more CPUs."

    def test_options(self, asked, capsys):
        command = ["data", "bench", "shards", "--seconds", "2.5", "--batches", "7", "--threads", "3", "--batch", "32"]
        assert main([*command, "--model", "RN50", "--json"]) == 0
        ((_, request),) = asked
        assert [request[name] for name in ("seconds", "batches", "threads", "batch", "model")] == [
            2.5,
            7,
            3,
            32,
            "RN50",
        ]
        assert json.loads(capsys.readouterr().out) == MEASURED

    def test_a_run_yaml_brings_its_model_and_threads(self, asked, run_yaml):
        assert main(["data", "bench", run_yaml]) == 0
        assert asked[0][1]["threads"] == 5
        assert main(["data", "bench", run_yaml, "--threads", "9", "--model", "RN50"]) == 0
        assert (asked[1][1]["threads"], asked[1][1]["model"]) == (9, "RN50")


class TestStats:
    @pytest.fixture
    def shards(self, tmp_path):
        write_dataset(tmp_path / "shards", (3, 5))
        index_dataset(str(tmp_path / "shards"))
        return tmp_path / "shards"

    def test_table(self, shards, capsys, monkeypatch):
        monkeypatch.setenv("COLUMNS", "80")
        assert main(["data", "stats", str(shards)]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith(f"{shards}: 8 samples in 2 shards")
        assert max(map(len, lines[1:])) <= 80

    def test_json(self, shards, capsys):
        assert main(["data", "stats", str(shards), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert (found["samples"], found["with_image"], found["with_class"]) == (8, 8, 0)
        assert found["samples_per_shard"]["counts"] == list(histogram({3: 1, 5: 1}, (0, 1, 2, 4)).counts)

    def test_the_shards_need_not_be_there(self, shards):
        for path in shards.glob("*.tar"):
            path.unlink()
        assert main(["data", "stats", str(shards)]) == 0

    def test_what_does_not_exist(self, shards, capsys):
        assert main(["data", "stats", str(shards / "nowhere")]) == ExitCode.MISSING
        assert main(["data", "stats", str(shards), "--name", "clean"]) == ExitCode.MISSING
        assert "Traceback" not in capsys.readouterr().err
