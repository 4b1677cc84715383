"""`clipctl data verify`: every problem is listed, none is raised, and an index that lies is found out."""

import pytest
import xxhash

from clip_testkit.shards import sample_members, tar_bytes, write_dataset
from clip_trainer.data.index.dataset import index_dataset, open_dataset
from clip_trainer.data.index.join import make_index
from clip_trainer.data.index.rows import ShardDetails, pack_rows
from clip_trainer.data.index.rules import SampleRules
from clip_trainer.data.index.store import save_index
from clip_trainer.data.index.table import IndexedShard
from clip_trainer.data.index.update import IndexOptions
from clip_trainer.data.index.verify import verify_dataset
from clip_trainer.data.storage.source_local import LocalSource
from clipctl.contract.errors import CorruptError, MissingError


@pytest.fixture
def dataset(tmp_path):
    write_dataset(tmp_path / "d", [3, 5, 1])
    return tmp_path / "d"


def flip(path, at=600):
    damaged = bytearray(path.read_bytes())
    damaged[at] ^= 1
    path.write_bytes(damaged)


def test_a_whole_data_set(dataset):
    open_dataset(str(dataset))
    for deep in (False, True):
        report = verify_dataset(str(dataset), deep=deep)
        assert report.ok
        assert (report.shards, report.samples, report.deep) == (3, 9, deep)
        assert report.bytes == sum(path.stat().st_size for path in dataset.glob("*.tar"))


def test_every_problem_is_reported(dataset):
    open_dataset(str(dataset))
    (dataset / "shard-000000.tar").unlink()
    flip(dataset / "shard-000001.tar")
    flip(dataset / "shard-000002.tar")
    quick, deep = (verify_dataset(str(dataset), deep=deep) for deep in (False, True))
    assert [problem.shard for problem in quick.problems] == ["shard-000000.tar"]
    assert [problem.shard for problem in deep.problems] == [f"shard-{n:06d}.tar" for n in range(3)]
    assert "does not exist" in deep.problems[0].problem
    assert "other content" in deep.problems[1].problem
    assert (deep.shards, deep.samples, deep.ok) == (3, 9, False)


def test_quick_reads_no_shard(dataset, monkeypatch):
    open_dataset(str(dataset))
    read = []
    whole = LocalSource.read

    def reading(self, name, *rest, **more):
        read.append(name)
        return whole(self, name, *rest, **more)

    monkeypatch.setattr(LocalSource, "read", reading)
    verify_dataset(str(dataset))
    assert not [name for name in read if name.endswith(".tar")]
    verify_dataset(str(dataset), deep=True)
    assert {name for name in read if name.endswith(".tar")} == {f"shard-{n:06d}.tar" for n in range(3)}


def test_progress_is_told(dataset):
    open_dataset(str(dataset))
    events = []
    verify_dataset(str(dataset), deep=True, threads=2, progress=events.append)
    assert (events[-1].stage, events[-1].done, events[-1].total) == ("verify", 3, 3)
    assert events[-1].bytes_done == sum(path.stat().st_size for path in dataset.glob("*.tar"))


def forge(dataset, change):
    """Replace the entry of the first shard in an index that is right in itself."""
    index = open_dataset(str(dataset)).index
    shards = [IndexedShard(index.table.entry(shard), index.block(shard)) for shard in range(3)]
    save_index(LocalSource(str(dataset)), make_index([change(shards[0]), *shards[1:]], SampleRules()))


def other_rows(shard):
    block = pack_rows([0, 4, 8], [4, 4, 4], [1, 2, 3], ShardDetails({"png": 3, "txt": 3}))
    check = xxhash.xxh3_64_intdigest(block)
    return IndexedShard(shard.entry._replace(block_bytes=len(block), block_check=check), block)


@pytest.mark.parametrize(
    "change",
    [
        other_rows,
        lambda shard: shard._replace(entry=shard.entry._replace(images=2)),
        lambda shard: shard._replace(entry=shard.entry._replace(captions=0)),
    ],
)
def test_an_index_that_lies_about_a_shard_is_found_out(dataset, change):
    forge(dataset, change)
    (problem,) = verify_dataset(str(dataset), deep=True).problems
    assert problem.shard == "shard-000000.tar"
    assert "describes shard" in problem.problem
    assert "wrongly" in problem.problem


def test_damaged_rows_are_a_problem_of_their_shard(dataset):
    table = open_dataset(str(dataset)).index.header.table
    flip(dataset / table.name, at=table.head_bytes + 3)
    report = verify_dataset(str(dataset), deep=True)
    assert [problem.shard for problem in report.problems] == ["shard-000000.tar"]
    assert "rows of shard-000000.tar are damaged" in report.problems[0].problem


def test_rules_are_applied_again(dataset):
    write_dataset(dataset, [3, 5, 4])
    index_dataset(str(dataset), IndexOptions(SampleRules(min_caption=len("picture 10"))), name="n")
    report = verify_dataset(str(dataset), name="n", deep=True)
    assert (report.ok, report.samples) == (True, 2)
    with pytest.raises(MissingError):
        verify_dataset(str(dataset), name="other")


def test_shards_that_are_not_indexed_are_told(dataset):
    open_dataset(str(dataset))
    for name in ("new.tar", "newer.tar"):
        (dataset / name).write_bytes(tar_bytes(sample_members(50)))
    (dataset / "notes.txt").write_text("no shard")
    report = verify_dataset(str(dataset))
    assert report.ok
    assert report.unindexed == ("new.tar", "newer.tar")
    assert verify_dataset(f"{dataset}/shard-000001.tar").unindexed == ("new.tar", "newer.tar")


def test_shards_that_were_left_out_as_damaged_are_no_news(dataset):
    (dataset / "shard-000001.tar").write_bytes(b"")
    index_dataset(str(dataset), IndexOptions(skip_damaged=True))
    report = verify_dataset(str(dataset), deep=True)
    assert report.ok
    assert (report.shards, report.unindexed) == (2, ())


def test_an_index_is_needed(dataset):
    with pytest.raises(MissingError, match=r"index\.json"):
        verify_dataset(str(dataset))
    (dataset / "index.json").write_bytes(b"{}")
    with pytest.raises(CorruptError, match="not a shard index"):
        verify_dataset(str(dataset))
