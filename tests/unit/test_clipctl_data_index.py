"""`clipctl data index` and `clipctl data verify` as a user runs them."""

import json

import pytest

from clip_testkit.shards import png, sample_members, tar_bytes, write_dataset
from clipctl.cli import main
from clipctl.contract.errors import ExitCode


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_dataset(tmp_path / "d", [3, 5])
    return tmp_path / "d"


@pytest.fixture
def run(capsys):
    def call(*arguments):
        code = main(["data", *map(str, arguments)])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_what_changed_is_told(run, data):
    code, out, _ = run("index", data)
    assert code == 0
    assert out.splitlines()[0] == "Shards: 2 new, 0 changed, 0 unchanged, 0 gone"
    assert out.splitlines()[1].startswith("8 samples in 2 shards (")
    (data / "shard-000001.tar").unlink()
    (data / "more.tar").write_bytes(tar_bytes(sample_members(77)))
    assert run("index", data)[1].splitlines()[0] == "Shards: 1 new, 0 changed, 1 unchanged, 1 gone"
    assert run("index", data, "--force")[1].splitlines()[0] == "Shards: 2 new, 0 changed, 0 unchanged, 0 gone"


def test_the_result_as_json(run, data):
    _, out, _ = run("index", data, "--need", "image", "--need", "caption", "--json")
    found = json.loads(out)
    assert (found["shards"], found["samples"], found["beside"]) == (2, 8, True)
    assert found["rules"] == {"needs": ["image", "caption"]}
    assert found["changes"] == {"new": 2, "changed": 0, "unchanged": 0, "gone": 0}
    assert (found["left_out"], found["damaged"]) == ({}, {})
    assert len(found["digest"]) == len(found["identity"]) == 32


def test_rules_stay_until_every_sample_is_wanted(run, data):
    assert run("index", data, "--min-caption", 11)[0] == ExitCode.MISSING
    (data / "more.tar").write_bytes(tar_bytes(sample_members(77, captions=["a longer caption"])))
    assert "1 samples in" in run("index", data, "--min-caption", 11)[1]
    assert "1 samples in" in run("index", data)[1]
    assert "9 samples in" in run("index", data, "--all-samples")[1]
    code, _, err = run("index", data, "--all-samples", "--min-caption", 11)
    assert code == ExitCode.USAGE
    assert "--all-samples" in err


def test_every_rule_has_its_option(run, data):
    (data / "s.tar").write_bytes(
        tar_bytes(
            [
                *[("0.png", png(1, size=4)), ("0.txt", b"small picture"), ("0.json", b'{"l": "en"}')],
                *[("1.png", png(1, size=16)), ("1.txt", b"a"), ("1.json", b'{"l": "en"}')],
                *[("2.png", png(1, size=16)), ("2.txt", b"long" * 9), ("2.json", b'{"l": "en"}')],
                *[("3.png", png(1, size=16)), ("3.txt", b"german"), ("3.json", b'{"l": "de"}')],
                *[("4.png", png(1, size=16)), ("4.txt", b"good"), ("4.json", b'{"l": "en"}')],
                *[("4.png", png(2, size=16)), ("4.txt", b"again"), ("4.json", b'{"l": "en"}')],
            ]
        )
    )
    rules = ["--min-side", 9, "--max-aspect", 2.5, "--min-caption", 2, "--max-caption", 20]
    rules += ["--where", "l=en", "--duplicates", "keep"]
    _, out, _ = run("index", data / "s.tar", *rules, "--name", "good", "--json")
    found = json.loads(out)
    assert found["samples"] == 2
    assert found["left_out"] == {"image too small": 1, "caption too short": 1, "caption too long": 1, "other l": 1}
    assert found["rules"] == {
        **{"min_side": 9, "max_aspect": 2.5, "min_caption": 2, "max_caption": 20},
        **{"where": [["l", "en"]], "duplicates": "keep"},
    }
    assert not found["beside"], "a part of a directory is indexed into the cache"
    _, out, _ = run("index", data / "s.tar", "--name", "good", "--force")
    assert "Samples left out: 4 (1 caption too long, 1 caption too short, 1 image too small, 1 other l)" in out
    assert "in the cache of this machine" in out


def test_damaged_shards_are_listed(run, data):
    (data / "shard-000000.tar").write_bytes(b"")
    code, _, err = run("index", data)
    assert (code, err.count("\n")) == (ExitCode.CORRUPT, 1)
    code, out, _ = run("index", data, "--skip-damaged")
    assert code == 0
    assert out.splitlines()[0] == "DAMAGED, left out: shard-000000.tar is empty (0 bytes)."


@pytest.mark.parametrize(
    "wrong",
    [
        ["--need", "sound"],
        ["--where", "language"],
        ["--min-side", "0"],
        ["--max-aspect", "0.5"],
        ["--duplicates", "drop"],
        ["--name", "../x"],
        ["--threads", "0"],
        ["--min-caption", "5", "--max-caption", "4"],
    ],
)
def test_bad_options_are_usage_errors(run, data, wrong):
    code, out, err = run("index", data, *wrong)
    assert (code, out) == (ExitCode.USAGE, "")
    assert err.startswith("error: ")


def test_verify_names_problems_and_strangers(run, data):
    run("index", data, "--name", "n")
    code, out, _ = run("verify", data, "--name", "n", "--deep", "--threads", "2")
    assert (code, out.startswith("OK: 8 samples in 2 shards")) == (0, True)
    for number in range(5):
        (data / f"new-{number}.tar").write_bytes(tar_bytes(sample_members(number)))
    (data / "shard-000001.tar").unlink()
    code, out, _ = run("verify", data, "--name", "n")
    assert code == ExitCode.CORRUPT
    assert "DAMAGED shard-000001.tar: " in out
    assert "NOT INDEXED: new-0.tar, new-1.tar, new-2.tar and 2 more" in out
    _, out, _ = run("verify", data, "--name", "n", "--json")
    assert json.loads(out)["unindexed"] == [f"new-{number}.tar" for number in range(5)]


def test_an_index_of_another_data_set_is_noticed(run, data, tmp_path):
    write_dataset(tmp_path / "other", [4, 4])
    run("index", data)
    run("index", tmp_path / "other")
    for path in (tmp_path / "other").glob("index*"):
        (data / path.name).write_bytes(path.read_bytes())
    code, out, _ = run("verify", data, "--deep")
    assert code == ExitCode.CORRUPT
    assert out.count("DAMAGED") == 2
