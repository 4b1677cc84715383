"""A shard in the making: whatever comes in whatever order, it leaves in the order of the rows."""

import hashlib
import io
import itertools
import json
import tarfile

import pytest

from clip_testkit.shards import png
from clip_trainer.data.gather.errors import GatherError, of_status
from clip_trainer.data.gather.record import RECORD_NAME, claim
from clip_trainer.data.gather.shard import GatheringShard
from clip_trainer.data.gather.table import Row
from clip_trainer.data.storage.source_local import LocalSource
from clip_trainer.data.writing.image import StoredImage
from clipctl.contract.errors import CannotCreateError, CorruptError

ROWS = [Row(number, f"http://a.test/{number}.png", f"Bild {number}, größer") for number in range(20, 24)]


def image(number):
    """An image as it is added, and the digest of the larger file it was made from."""
    return StoredImage("png", png(number), (8, 8), (80, 80)), hashlib.sha256(b"%d" % number).hexdigest()


@pytest.fixture
def make():
    made = []

    def shard(rows=ROWS):
        made.append(GatheringShard(5, rows))
        return made[-1]

    yield shard
    for one in made:
        one.close()


def fill(shard, order):
    for number in order:
        row = ROWS[number]
        if number == 2:
            shard.add_failure(row, of_status(404))
        else:
            shard.add_image(row, *image(row.number))


def test_the_order_of_arrival_leaves_no_trace(make):
    outcomes = set()
    for order in itertools.permutations(range(4)):
        shard = make()
        fill(shard, order)
        assert shard.complete
        outcomes.add((shard.archive(), tuple(shard.results())))
    assert len(outcomes) == 1


def test_samples_are_what_webdataset_reads(make):
    shard = make()
    fill(shard, range(4))
    with tarfile.open(fileobj=io.BytesIO(shard.archive())) as tar:
        content = {member.name: tar.extractfile(member).read() for member in tar}
    keys = ["000000020", "000000021", "000000023"]
    assert list(content) == [f"{key}.{suffix}" for key in keys for suffix in ("png", "txt", "json")]
    assert content["000000021.png"] == png(21)
    assert content["000000021.txt"].decode() == "Bild 21, größer"
    assert json.loads(content["000000021.json"]) == {
        "row": 21,
        "url": "http://a.test/21.png",
        "caption": "Bild 21, größer",
        "status": "ok",
        "sha256": hashlib.sha256(b"21").hexdigest(),
        "width": 8,
        "height": 8,
        "original_width": 80,
        "original_height": 80,
    }


def test_results_are_in_the_order_of_the_rows(make):
    shard = make()
    assert not shard.complete
    fill(shard, (3, 0, 2))
    assert shard.missing() == [ROWS[1]]
    assert not shard.complete
    fill(shard, (1,))
    assert [(result.row, result.status, result.http, result.bytes) for result in shard.results()] == [
        (20, "ok", 200, len(png(20))),
        (21, "ok", 200, len(png(21))),
        (22, "http-404", 404, None),
        (23, "ok", 200, len(png(23))),
    ]
    assert {result.shard for result in shard.results()} == {"shard-000005.tar"}


def test_a_shard_without_images_has_no_tar(make):
    shard = make()
    for row in ROWS:
        shard.add_failure(row, GatherError("timeout"))
    assert shard.complete
    assert shard.archive() == b""


def test_what_an_earlier_run_fetched_is_kept_and_only_the_rest_is_missing(make):
    first, later, whole = make(), make(), make()
    fill(first, range(4))
    later.keep(first.results(), first.archive())
    assert later.missing() == [ROWS[2]]
    later.add_image(ROWS[2], *image(22))
    for row in ROWS:
        whole.add_image(row, *image(row.number))
    assert later.archive() == whole.archive()
    assert later.results() == whole.results()


def test_a_sample_that_the_results_do_not_know_is_fetched_again(make):
    """The last run was killed between a shard and its results."""
    whole, later = make(), make()
    for row in ROWS:
        whole.add_image(row, *image(row.number))
    older = make()
    fill(older, range(4))
    later.keep(older.results(), whole.archive())
    assert later.missing() == [ROWS[2]]
    later.add_image(ROWS[2], *image(22))
    assert later.archive() == whole.archive()


def test_captions_that_are_no_unicode_text_are_stored_all_the_same(make):
    row = Row(0, "http://a.test/\udcff", "half a \ud83d pair")
    shard = make([row])
    shard.add_image(row, *image(0))
    with tarfile.open(fileobj=io.BytesIO(shard.archive())) as tar:
        assert tar.extractfile("000000000.txt").read() == b"half a ? pair"
        assert json.load(tar.extractfile("000000000.json"))["caption"] == "half a ? pair"


OPTIONS = {"table": "abc", "rows": 4, "rows_per_shard": 2}


def test_an_empty_place_is_claimed_and_the_same_work_goes_on(tmp_path):
    sink = LocalSource(str(tmp_path / "new" / "place"))
    claim(sink, OPTIONS)
    before = sink.load(RECORD_NAME)
    assert json.loads(before)["table"] == "abc"
    claim(sink, OPTIONS)
    assert sink.load(RECORD_NAME) == before


@pytest.mark.parametrize("other", [{"table": "abd"}, {"rows_per_shard": 3}, {"version": 2}, {"more": 1}])
def test_other_work_is_refused(tmp_path, other):
    sink = LocalSource(str(tmp_path))
    claim(sink, OPTIONS)
    with pytest.raises(CannotCreateError, match=rf"another table or with other options \({next(iter(other))} differ"):
        claim(sink, {**OPTIONS, **other})


def test_foreign_shards_are_refused(tmp_path):
    sink = LocalSource(str(tmp_path))
    sink.save("shard-000000.tar", b"x")
    with pytest.raises(CannotCreateError, match="holds 1 other shards"):
        claim(sink, OPTIONS)
    assert [path.name for path in tmp_path.iterdir()] == ["shard-000000.tar"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_a_damaged_record(tmp_path, content):
    sink = LocalSource(str(tmp_path))
    sink.save(RECORD_NAME, content)
    with pytest.raises(CorruptError, match="is damaged"):
        claim(sink, OPTIONS)
