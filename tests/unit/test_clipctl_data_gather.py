"""`clipctl data gather`: flags reach what they are for, and results are shown."""

import json
from dataclasses import asdict, replace

import pytest

from clip_trainer.data.gather import gather as gathering
from clip_trainer.data.gather.gather import GatherOptions, GatherSummary, user_agent
from clipctl.cli import main
from clipctl.contract.errors import ExitCode

SUMMARY = GatherSummary("out", 10, 7, {"http-404": 2, "timeout": 1}, 10, 1, 20480, "d1ge57")


@pytest.fixture
def calls(monkeypatch):
    """What the command asks for, in place of the web."""
    seen = []

    def gather(table, out, options, progress):
        seen.append((table, out, options))
        return SUMMARY

    monkeypatch.setattr(gathering, "gather", gather)
    return seen


def options_of(calls, *arguments):
    assert main(["data", "gather", "t.tsv", "out", *arguments]) == 0
    return calls[-1][2]


def test_the_result_for_people_and_for_programs(calls, capsys):
    options_of(calls)
    assert capsys.readouterr().out.splitlines() == [
        "7 of 10 images in 1 shards (20.0 KiB) written to out",
        "       2 http-404",
        "       1 timeout",
    ]
    options_of(calls, "--json")
    assert json.loads(capsys.readouterr().out) == asdict(SUMMARY)


def test_the_defaults_of_the_command_are_those_of_the_library(calls):
    found, usual = options_of(calls), GatherOptions()
    assert set(found.acceptance.opt_out) == set(usual.acceptance.opt_out)
    accepted = replace(found.acceptance, opt_out=usual.acceptance.opt_out)
    draw = replace(found.retry, draw=usual.retry.draw)  # of chance: each one is another
    assert replace(found, acceptance=accepted, retry=draw) == usual
    assert calls[-1][:2] == ("t.tsv", "out")


def test_every_flag_arrives(calls):
    found = options_of(
        calls,
        *("--url-column", "link", "--caption-column", "words", "--rows-per-shard", "7", "--concurrency", "9"),
        *("--per-host", "3", "--host-delay", "0.5", "--connect-timeout", "1", "--read-timeout", "2"),
        *("--total-timeout", "3", "--retries", "4", "--max-bytes", "1000", "--max-pixels", "2000", "--resize", "256"),
        *("--resize-mode", "crop", "--quality", "90", "--opt-out", "noai, NoIndex", "--contact", "me@site.test"),
        *("--allow-private", "--retry-failed"),
    )
    assert found.columns == ("link", "words")
    assert (found.rows_per_shard, found.concurrency, found.per_host, found.host_delay) == (7, 9, 3, 0.5)
    assert (found.limits.connect, found.limits.read, found.limits.total, found.retry.retries) == (1, 2, 3, 4)
    accepted = found.acceptance
    assert (accepted.max_bytes, accepted.max_pixels, accepted.opt_out) == (1000, 2000, {"noai", "noindex"})
    assert (accepted.resize.size, accepted.resize.mode, accepted.resize.quality) == (256, "crop", 90)
    assert (found.contact, found.allow_private, found.retry_failed) == ("me@site.test", True, True)


def test_opt_outs_can_be_switched_off_by_name_only(calls):
    assert options_of(calls, "--opt-out", "").acceptance.opt_out == set()


def test_sites_are_told_who_asks():
    assert user_agent("") == "clipctl"
    assert user_agent("https://lab.test/crawl") == "clipctl (https://lab.test/crawl)"


@pytest.mark.parametrize("flag", ["--concurrency", "--per-host", "--rows-per-shard", "--max-bytes", "--max-pixels"])
def test_limits_are_positive(flag, calls, capsys):
    assert main(["data", "gather", "t.tsv", "out", flag, "0"]) == ExitCode.USAGE
    assert not calls


@pytest.mark.parametrize(
    ("table", "content", "code"),
    [
        ("none.tsv", None, ExitCode.MISSING),
        ("t.xls", "x", ExitCode.USAGE),
        ("t.tsv", "caption\tlink\nx\ty\n", ExitCode.USAGE),
        ("t.tsv", "a cat\thttp://127.0.0.1:1/x.png\n", ExitCode.MISSING),
    ],
)
def test_errors_are_one_line(table, content, code, tmp_path, capsys):
    if content is not None:
        (tmp_path / table).write_text(content)
    assert main(["data", "gather", str(tmp_path / table), str(tmp_path / "out")]) == code
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
