import json

import pytest
from PIL import Image

from clipctl.cli import main
from clipctl.contract.errors import ExitCode
from clipctl.dataprogress import ProgressLine


@pytest.fixture
def folders(tmp_path):
    for label in ("cat", "dog"):
        directory = tmp_path / "images" / label
        directory.mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (4, 4), (i * 80, 0, 0)).save(directory / f"{i}.png")
    return tmp_path / "images"


@pytest.fixture
def packed(folders, tmp_path, capsys):
    out = tmp_path / "shards"
    assert main(["data", "pack", str(folders), str(out), "--samples-per-shard", "4", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["samples"], summary["shards"], summary["classes"]) == (6, 2, ["cat", "dog"])
    return out


def test_pack_index_and_verify(packed, capsys):
    assert main(["data", "index", str(packed), "--force", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == 6
    assert main(["data", "verify", str(packed), "--deep"]) == 0
    assert capsys.readouterr().out.startswith("OK: 6 samples in 2 shards")


def test_a_damaged_shard_is_named_and_exits_65(packed, capsys):
    shard = sorted(packed.glob("*.tar"))[1]
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(bytes(data))
    assert main(["data", "verify", str(packed), "--deep", "--json"]) == ExitCode.CORRUPT
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert [problem["shard"] for problem in report["problems"]] == [shard.name]


def test_packing_a_table(folders, tmp_path, capsys):
    table = tmp_path / "t.tsv"
    table.write_text("file\ttext\tsplit\n" + "".join(f"cat/{i}.png\ta cat\ttrain\n" for i in range(3)))
    arguments = ["--image-column", "file", "--caption-column", "text", "--root", str(folders), "--split", "train"]
    assert main(["data", "pack", str(table), str(tmp_path / "out"), *arguments]) == 0
    assert capsys.readouterr().out.startswith("3 samples in 1 shards")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["pack", "none.csv", "out"], ExitCode.MISSING),
        (["index", "nowhere"], ExitCode.MISSING),
        (["verify", "nowhere"], ExitCode.MISSING),
        (["pack", "x", "y", "--samples-per-shard", "0"], ExitCode.USAGE),
    ],
)
def test_bad_input(arguments, code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["data", *arguments]) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_progress_is_shown_now_and_then(capsys):
    from clip_trainer.data.progress import ProgressEvent

    times = iter([0.0, 1.0, 11.0, 22.0])
    line = ProgressLine(clock=lambda: next(times))
    line(ProgressEvent("pack", 1, 9, 10, "a.tar"))
    line(ProgressEvent("pack", 2, 9, 2048, "b.tar"))
    line(ProgressEvent("index", 1, 9, 2048, "a.tar"))
    line.close()
    assert capsys.readouterr().err == "pack: 2/9, 2.0 KiB, 0.1/s, 1m10s left b.tar\nindex: 1/9, 2.0 KiB a.tar\n"


def test_progress_on_a_terminal_is_one_line(capsys, monkeypatch):
    from clip_trainer.data.progress import ProgressEvent

    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    times = iter([0.0, 1.0])
    line = ProgressLine(clock=lambda: next(times))
    line(ProgressEvent("indexing", 1, 9, 10, "a\x1b.tar"))
    line.close()
    err = capsys.readouterr().err
    assert err.startswith("\rindexing: 1/9, 10 B a.tar")
    assert "\n" not in err
    assert "\x1b" not in err
