"""Ranges: what an answer must say to be believed, and what happens when it breaks."""

import contextlib
from email.message import Message
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_trainer.data.storage.http_ranges import read_range, strong_etag
from clip_trainer.data.storage.retry import RetryPolicy
from clip_trainer.data.storage.source import SourceCounters
from clipctl.contract.errors import CorruptError, MissingError, UnavailableError

CONTENT = bytes(range(256)) * 400  # 100 KiB
URL = urlsplit("http://host/a")


class Response:
    """An answer as `http_response.Response`, out of memory, a few bytes at a time."""

    def __init__(self, status, headers, body, *, left=-1, breaks=False, piece=7000):
        self.status, self.headers = status, Message()
        for name, value in headers.items():
            self.headers[name] = value
        self.left = len(body) if left == -1 else left
        self.body, self.breaks, self.piece = body, breaks, piece

    def read(self, count):
        if not self.body and self.breaks:
            raise UnavailableError("the connection broke")
        count = min(count, self.piece)
        piece, self.body = self.body[:count], self.body[count:]
        return piece


class Client:
    """Answers from a list: each is a function of the range that is asked for, or an error."""

    def __init__(self, *answers, attempts=3):
        self.answers = list(answers)
        self.asked = []
        self.waits = []
        self.retry = RetryPolicy(attempts=attempts, sleep=self.waits.append, draw=lambda: 1.0)
        self.counters = SourceCounters()

    @contextlib.contextmanager
    def open(self, request):
        first, last = request.headers["Range"].removeprefix("bytes=").split("-")
        self.asked.append((int(first), int(last), request.headers.get("If-Match")))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        yield answer(int(first), int(last))


def good(first, last, *, sent=None, etag='"v1"', said=None, **options):
    """The range, or the first `sent` bytes of it."""
    headers = {"Content-Range": said or f"bytes {first}-{last}/{len(CONTENT)}"} | ({"ETag": etag} if etag else {})
    body = CONTENT[first : last + 1]
    left = options.pop("left", len(body))
    return Response(206, headers, body if sent is None else body[:sent], left=left, **options)


def broken(sent):
    return lambda first, last: good(first, last, sent=sent, breaks=True)


def whole(first, last, **options):
    """All of it: the server does not know ranges."""
    return Response(200, {"ETag": '"v1"'}, CONTENT, **options)


def read(client, offset=1000, length=50_000, etag=None):
    return read_range(client, URL, "s3://b/a", offset, length, etag)


def test_a_range_is_read_exactly():
    client = Client(good)
    found = read(client)
    assert found == CONTENT[1000:51_000]
    assert type(found) is bytes
    assert client.asked == [(1000, 50_999, None)]
    assert client.counters.bytes_read == 50_000


def test_it_goes_on_where_it_broke_with_the_version_it_began_with():
    client = Client(broken(20_000), broken(0), broken(10_000), good, attempts=4)
    assert read(client) == CONTENT[1000:51_000]
    assert client.asked == [
        (start, 50_999, tag)
        for start, tag in zip((1000, 21_000, 21_000, 31_000), (None, '"v1"', '"v1"', '"v1"'), strict=True)
    ]
    assert client.counters.bytes_read == 50_000
    assert client.counters.retries == 3


def test_every_progress_is_worth_new_attempts():
    client = Client(broken(16 << 10), attempts=2)
    assert read(client, 0, len(CONTENT)) == CONTENT
    assert len(client.waits) == 6
    assert set(client.waits) == {0.1}


def test_a_drip_is_no_progress():
    client = Client(broken(100), attempts=5)
    with pytest.raises(UnavailableError, match="broke"):
        read(client)
    assert client.waits == [0.1, 0.2, 0.4, 0.8]


@given(
    offset=st.integers(0, len(CONTENT) - 1),
    length=st.integers(1, len(CONTENT)),
    cuts=st.lists(st.integers(0, 40_000), max_size=6),
    piece=st.integers(1000, 100_000),
)
def test_bytes_are_intact_wherever_it_breaks(offset, length, cuts, piece):
    length = min(length, len(CONTENT) - offset)
    client = Client(*map(broken, cuts), lambda first, last: good(first, last, piece=piece), attempts=10)
    assert read(client, offset, length) == CONTENT[offset : offset + length]
    assert client.counters.bytes_read == length


@pytest.mark.parametrize(
    "answer",
    [
        lambda first, last: good(first, last, said=f"bytes {first + 1}-{last}/102400"),
        lambda first, last: good(first, last, said="bytes 5"),
        lambda first, last: good(first, last, said=f"bytes {first}-{first - 1}/102400", left=0),
        lambda first, last: good(first, last, left=10),
        lambda first, last: good(first, last, left=60_000),
        lambda first, last: good(first, last, sent=0, left=None),
        lambda first, last: Response(206, {}, b"x" * 50_000),
        lambda first, last: Response(200, {"Content-Type": "text/html; charset=x"}, b"<html>" * 99_999),
    ],
)
def test_answers_that_make_no_sense_are_asked_for_again(answer):
    assert read(Client(answer, answer, good)) == CONTENT[1000:51_000]
    with pytest.raises(UnavailableError):
        read(Client(answer))


def test_a_part_of_the_range_is_an_honest_answer():
    part = lambda first, last: good(first, min(last, first + 19_999))  # noqa: E731
    client = Client(part, attempts=1)
    assert read(client) == CONTENT[1000:51_000]
    assert [asked[0] for asked in client.asked] == [1000, 21_000, 41_000]


def test_servers_that_do_not_tell_sizes_are_believed_until_they_end():
    assert read(Client(lambda first, last: good(first, last, said=f"bytes {first}-{last}/*", left=None)))
    with pytest.raises(UnavailableError, match="ended early"):
        read(Client(lambda first, last: good(first, last, said=f"bytes {first}-{last}/*", left=None, sent=0)))


@pytest.mark.parametrize("etag", ['"v2"', '"v2'])
def test_another_version_is_refused_at_once(etag):
    client = Client(lambda first, last: good(first, last, etag=etag))
    with pytest.raises(CorruptError, match="changed"):
        read(client, etag="v1")
    assert client.asked == [(1000, 50_999, '"v1"')]


def test_another_version_is_refused_in_the_middle():
    client = Client(broken(20_000), lambda first, last: good(first, last, etag='"v2"'))
    with pytest.raises(CorruptError, match="changed"):
        read(client)


def test_an_answer_without_a_version_is_not_trusted_where_one_is_known():
    client = Client(lambda first, last: good(first, last, etag=None))
    assert read(client) == CONTENT[1000:51_000]
    with pytest.raises(UnavailableError, match="without an etag"):
        read(client, etag="v1")


def test_objects_that_end_too_early_are_corrupt():
    for answer in (
        lambda first, last: good(first, last, said=f"bytes {first}-2000/2001", left=None),
        lambda first, last: Response(200, {}, b"short"),
    ):
        with pytest.raises(CorruptError, match="shorter"):
            read(Client(answer))


@pytest.mark.parametrize("left", [-1, None])
def test_a_server_without_ranges_is_read_from_its_beginning(left):
    client = Client(lambda first, last: whole(first, last, left=left), attempts=1)
    assert read(client) == CONTENT[1000:51_000]


def test_a_server_without_ranges_that_breaks():
    broke = lambda first, last: Response(200, {"ETag": '"v1"'}, CONTENT[:30_000], left=len(CONTENT), breaks=True)  # noqa: E731
    client = Client(broke, broke, whole, attempts=3)
    assert read(client) == CONTENT[1000:51_000]
    ended = lambda first, last: Response(200, {}, CONTENT[:500], left=None)  # noqa: E731
    with pytest.raises(UnavailableError, match="ended early"):
        read(Client(ended))


def test_what_the_server_refuses_is_not_asked_for_again():
    def missing(first, last):
        raise MissingError("no such object")

    client = Client(missing)
    with pytest.raises(MissingError):
        read(client)
    assert len(client.asked) == 1


@pytest.mark.parametrize(
    ("value", "etag"), [('"abc"', "abc"), ("abc", "abc"), ('W/"abc"', None), (None, None), ("", None)]
)
def test_only_strong_etags_name_a_version(value, etag):
    assert strong_etag(value) == etag
