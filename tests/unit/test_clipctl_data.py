import json

import pytest
from PIL import Image

from clip_trainer.data.writing.image_resize import Resize
from clip_trainer.data.writing.shard_writer import WriteOptions
from clipctl.cli import main
from clipctl.commands.data.writeoptions import resize_option, write_options
from clipctl.contract.errors import ExitCode, SpecError
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


def test_packing_smaller_with_metadata_and_without_the_bad_rows(folders, tmp_path, capsys):
    (folders / "cat" / "0.png").write_bytes(b"no image")
    table = tmp_path / "t.csv"
    table.write_text("image,caption,url\n" + "".join(f"cat/{i}.png,a cat,http://x/{i}\n" for i in range(4)))
    options = ["--root", str(folders), "--resize", "2", "--quality", "80", "--keep-metadata", "url", "--workers", "2"]
    command = ["data", "pack", str(table), str(tmp_path / "out"), *options]
    assert main([*command, "--on-error", "fail"]) == ExitCode.CORRUPT
    assert "t.csv:2: unusable image (cannot be decoded)" in capsys.readouterr().err
    assert main([*command, "--on-error", "skip"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith("2 samples in 1 shards")
    assert out[1].startswith("2 left out (1 cannot be decoded, 1 missing image), see ")
    assert main([*command, "--on-error", "skip"]) == 0
    assert "out is complete already: 2 samples" in capsys.readouterr().out
    assert main(["data", "pack", str(table), str(tmp_path / "out"), "--root", str(folders)]) == ExitCode.CANNOT_CREATE
    assert "other arguments (different: input, resize)" in capsys.readouterr().err


def test_resharding(packed, tmp_path, capsys):
    command = ["data", "reshard", str(packed), str(tmp_path / "out"), "--shard-bytes", "10K", "--seed", "1"]
    assert main([*command, "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["samples"], summary["shards"], summary["complete"]) == (6, 2, False)
    assert max(path.stat().st_size for path in (tmp_path / "out").glob("*.tar")) <= 10 << 10
    assert main(["data", "verify", str(tmp_path / "out"), "--deep"]) == 0
    assert main(["data", "reshard", str(packed), str(packed)]) == ExitCode.USAGE


@pytest.mark.parametrize(
    ("text", "count"), [("1", 1), ("500M", 500 << 20), ("3G", 3 << 30), ("3GiB", 3 << 30), ("20KB", 20 << 10)]
)
def test_sizes_of_shards(text, count):
    assert write_options(10, text, 3, "skip") == WriteOptions(10, count, 3, skip_errors=True)


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5G", "M", "3X", "9" * 20])
def test_sizes_that_are_none(text):
    with pytest.raises(SpecError, match="--shard-bytes"):
        write_options(10, text, None, "fail")


def test_remote_data_is_read_by_more_threads():
    assert write_options(1, None, None, "fail", remote=True).workers >= 16
    assert write_options(1, None, 2, "fail", remote=True).workers == 2
    assert write_options(1, None, None, "fail").workers >= 1


def test_words_of_options():
    with pytest.raises(SpecError, match="--on-error stop is not known"):
        write_options(1, None, None, "stop")
    with pytest.raises(SpecError, match="--resize-mode squash is not known"):
        resize_option(None, "squash", 95)
    assert resize_option(None, "crop", 95) is None
    assert resize_option(224, "crop", 90) == Resize(224, "crop", 90)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["pack", "none.csv", "out"], ExitCode.MISSING),
        (["pack", "none.parquet", "out"], ExitCode.MISSING),
        (["pack", "none.csv", "out", "--on-error", "maybe"], ExitCode.USAGE),
        (["pack", "none.csv", "out", "--resize-mode", "squash"], ExitCode.USAGE),
        (["pack", "none.csv", "out", "--resize", "0"], ExitCode.USAGE),
        (["pack", "none.csv", "out", "--shard-bytes", "big"], ExitCode.USAGE),
        (["reshard", "nowhere", "out"], ExitCode.MISSING),
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
