"""How far a download is: lines for logs, a bar for terminals, nothing for what is there already."""

import io
import re

import pytest

from clip_testkit.clock import FakeClock
from clip_trainer.pretrained.download import DownloadProgress
from clipctl.downloadbar import DownloadBar

MEBI = 1 << 20


@pytest.fixture(name="clock")
def _clock():
    return FakeClock()


def test_lines_come_every_ten_seconds(clock, capsys):
    with DownloadBar(clock, live=False) as bar:
        for second in range(35):
            clock.advance(1)
            bar(DownloadProgress("w.pt", second * MEBI, 100 * MEBI))
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"w.pt: {done}.0 MiB of 100.0 MiB" for done in (9, 19, 29)]


def test_a_quick_download_says_nothing(clock, capsys):
    with DownloadBar(clock, live=False) as bar:
        bar(DownloadProgress("w.pt", MEBI, MEBI))
    told = capsys.readouterr()
    assert (told.out, told.err) == ("", "")


def test_an_unknown_size(clock, capsys):
    with DownloadBar(clock, live=False) as bar:
        clock.advance(11)
        bar(DownloadProgress("w.pt", 5, None))
    assert capsys.readouterr().err == "w.pt: 5 B\n"


@pytest.mark.parametrize("live", [True, False])
def test_waiting_for_another_process_is_said_at_once(clock, capsys, live):
    with DownloadBar(clock, live=live) as bar:
        bar(DownloadProgress("w.pt", 0, None, waiting=True))
    assert "another process is fetching w.pt" in capsys.readouterr().err


def test_a_terminal_gets_a_bar_that_is_gone_afterwards(clock, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    with DownloadBar(clock) as bar:
        assert terminal.getvalue() == "", "nothing before the first byte"
        bar(DownloadProgress("[red]w.pt", MEBI, 4 * MEBI))
        bar(DownloadProgress("[red]w.pt", 2 * MEBI, 4 * MEBI))
        bar(DownloadProgress("config.json", 10, None))
    shown = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", terminal.getvalue())
    assert "[red]w.pt" in shown, "names are not markup"
    assert "2.0/4.0 MiB" in shown
    assert terminal.getvalue().rstrip().endswith(("\x1b[2K", "\x1b[?25h", "\x1b[1A\x1b[2K"))


def test_output_that_is_no_terminal_gets_no_bar(capsys):
    with DownloadBar() as bar:
        bar(DownloadProgress("w.pt", 1, 2))
        assert bar._bars is None
    assert capsys.readouterr().err == ""
