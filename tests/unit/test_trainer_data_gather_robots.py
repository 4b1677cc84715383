"""robots.txt by RFC 9309, and the opt-outs of `X-Robots-Tag`."""

import pytest

from clip_trainer.data.gather.errors import GatherError, of_status
from clip_trainer.data.gather.optout import DIRECTIVES, opt_out
from clip_trainer.data.gather.robots import MAX_CRAWL_DELAY, RobotRules, Robots

URL = "https://a.test/images/cat.jpg"


class Host:
    """Serves what robots.txt is said to hold, and counts."""

    def __init__(self, *answers):
        self.answers, self.asked, self.now = list(answers), [], 0.0
        self.robots = Robots(self.load, "clipctl", clock=lambda: self.now)

    def load(self, url):
        self.asked.append(url)
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer.encode()

    def check(self, url=URL):
        """Delay, or the reason why not."""
        try:
            return self.robots.check(url)
        except GatherError as error:
            return error.reason


@pytest.mark.parametrize(
    ("text", "allowed"),
    [
        ("", True),
        ("User-agent: *\nDisallow: /\n", False),
        ("User-agent: *\nDisallow: /images/\n", False),
        ("User-agent: *\nDisallow: /other/\n", True),
        ("User-agent: clipctl\nDisallow: /\n\nUser-agent: *\nDisallow:\n", False),
        ("User-agent: CLIPCTL\nDisallow:\n\nUser-agent: *\nDisallow: /\n", True),
        ("User-agent: Googlebot\nDisallow: /\n", True),
        ("User-agent: *\nAllow: /images/cat.jpg\nDisallow: /images/\n", True),
        ("\ufeffUser-agent: *\r\nDisallow: /\r\n", False),
        ("<html>not found, but with status 200</html>", True),
    ],
)
def test_rules(text, allowed):
    assert Host(text).check() == (0.0 if allowed else "robots")


def test_rules_are_fetched_once_a_host_and_kept_a_day():
    host = Host("User-agent: *\nDisallow: /private/\n")
    assert [host.check(), host.check("https://a.test/private/x"), host.check()] == [0.0, "robots", 0.0]
    assert host.asked == ["https://a.test/robots.txt"]
    host.check("http://a.test/x")
    host.check("https://a.test:8443/x")
    host.check("https://someone:secret@A.test/x")
    assert host.asked[1:] == ["http://a.test/robots.txt", "https://a.test:8443/robots.txt"]
    host.now = 90_000.0
    host.check()
    assert host.asked[3:] == ["https://a.test/robots.txt"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 418])
def test_without_a_file_everything_is_allowed(status):
    host = Host(of_status(status))
    assert [host.check(), host.check()] == [0.0, 0.0]
    assert len(host.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_while_the_file_cannot_be_had_nothing_is_allowed(status):
    host = Host(of_status(status), "User-agent: *\nDisallow: /no/\n")
    assert host.check() == f"http-{status}"
    host.now = 1.9
    assert host.check() == f"http-{status}"
    assert len(host.asked) == 1, "the host is left alone meanwhile"
    host.now = 2.0
    assert host.check() == 0.0


def test_a_host_that_stays_away_is_left_alone_ever_longer():
    host = Host(GatherError("timeout", "slow", transient=True))
    rests = []
    for _ in range(7):
        with pytest.raises(GatherError) as caught:
            host.robots.check(URL)
        assert caught.value.transient
        assert caught.value.detail == "robots.txt: slow"
        rests.append(caught.value.retry_after)
        host.now += caught.value.retry_after
    assert rests == [2.0, 8.0, 32.0, 128.0, 512.0, 600.0, 600.0]
    assert len(host.asked) == 7


def test_a_host_is_left_alone_as_long_as_it_asks():
    host = Host(of_status(503, retry_after=90.0))
    with pytest.raises(GatherError) as caught:
        host.robots.check(URL)
    assert caught.value.retry_after == 90.0


def test_a_success_ends_the_count_of_failures():
    down = GatherError("timeout", transient=True)
    host = Host(down, down, "", down)
    for now in (0.0, 2.0, 10.0):
        host.now = now
        host.check()
    host.now = 100_000.0
    with pytest.raises(GatherError) as caught:
        host.robots.check(URL)
    assert caught.value.retry_after == 2.0


def test_a_name_that_does_not_exist_is_not_asked_for_every_row():
    host = Host(GatherError("dns", "not known"))
    for _ in range(5):
        with pytest.raises(GatherError) as caught:
            host.robots.check(URL)
        assert (caught.value.reason, caught.value.transient, caught.value.retry_after) == ("dns", False, 0.0)
    assert len(host.asked) == 1


def test_crawl_delays_are_kept_within_reason():
    assert Host("User-agent: *\nCrawl-delay: 3\n").check() == 3.0
    assert RobotRules("User-agent: *\nCrawl-delay: 86400\n", "clipctl").crawl_delay == MAX_CRAWL_DELAY
    assert RobotRules("User-agent: *\nCrawl-delay: often\n", "clipctl").crawl_delay == 0.0


def test_rules_of_hosts_not_seen_for_long_are_dropped(monkeypatch):
    monkeypatch.setattr("clip_trainer.data.gather.robots._KEPT_HOSTS", 3)
    host = Host("")
    for number in (0, 1, 2, 0, 3):
        host.check(f"http://h{number}.test/")
    assert len(host.asked) == 4
    host.check("http://h0.test/")
    assert len(host.asked) == 4
    host.check("http://h1.test/")
    assert len(host.asked) == 5


@pytest.mark.parametrize(
    ("values", "directive"),
    [
        ([], None),
        (["all"], None),
        (["nofollow, noarchive"], None),
        (["noai"], "noai"),
        (["NoImageAI"], "noimageai"),
        (["nofollow, noindex"], "noindex"),
        (["nofollow", "noimageindex"], "noimageindex"),
        (["none"], "noindex"),
        (["clipctl: noindex, nofollow"], "noindex"),
        (["CLIPCTL:noai"], "noai"),
        (["otherbot: noindex, noai"], None),
        (["otherbot: noindex", "noai"], "noai"),
        (["unavailable_after: 25 Jun 2030 15:00:00 PST"], None),
        (["max-image-preview: large, noai"], "noai"),
        (["noindex, unavailable_after: 25 Jun 2030 15:00:00 PST"], "noindex"),
    ],
)
def test_opt_outs(values, directive):
    assert opt_out(values, "clipctl") == directive


def test_which_opt_outs_count_can_be_chosen():
    assert opt_out(["noindex, noai"], "clipctl", {"noai"}) == "noai"
    assert opt_out(["noindex"], "clipctl", {"noai"}) is None
    assert opt_out([*DIRECTIVES], "clipctl", ()) is None
