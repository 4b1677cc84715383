"""Samples are those that OpenCLIP's `tarfile_to_samples_nothrow` makes of the same shards."""

import io
import warnings

import pytest

from clip_testkit.grouping import FORMATS, odd_shard
from clip_testkit.shards import tar_bytes
from clip_trainer.data.index.dataset import open_dataset
from clip_trainer.data.index.rules import SampleRules
from clip_trainer.data.index.update import IndexOptions, index_dataset
from clip_trainer.data.sample_set import ReadHints
from clip_trainer.data.shards.grouping import KNOWN_SUFFIXES
from clipctl.contract.errors import CorruptError

pytestmark = pytest.mark.parity
KEEP = IndexOptions(SampleRules(duplicates="keep"))


@pytest.fixture(scope="module")
def theirs(open_clip):
    """Key and known members of every sample, as OpenCLIP's training program groups them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from open_clip_train.data import group_by_keys_nothrow, tar_file_expander

    def read(content):
        # What `tarfile_to_samples_nothrow` does, without its opener, which leaves files to the garbage collector, and
        # without the end marks of newer versions of webdataset, for which it was not written.
        files = tar_file_expander([{"url": "s.tar", "stream": io.BytesIO(content)}], eof_value=None)
        samples = group_by_keys_nothrow(files)
        return [(s["__key__"], {k: v for k, v in s.items() if k in KNOWN_SUFFIXES}) for s in samples]

    return read


def ours(directory, content, options=KEEP):
    (directory / "s.tar").write_bytes(content)
    index_dataset(str(directory), options)
    dataset = open_dataset(str(directory))
    reader = dataset.open_reader(ReadHints())
    samples = [reader.read(0, number) for number in range(dataset.counts[0])]
    return [(sample.key, sample.members) for sample in samples]


@pytest.mark.parametrize("duplicates", [True, False], ids=["duplicates", "unique"])
@pytest.mark.parametrize("kind", sorted(FORMATS))
@pytest.mark.parametrize("seed", range(12))
def test_the_same_samples(tmp_path, theirs, seed, kind, duplicates):
    content = odd_shard(seed, kind, duplicates=duplicates)
    expected = theirs(content)
    assert ours(tmp_path, content) == expected
    assert len(expected) > 20


def test_without_being_told_to_keep_them_duplicates_are_refused(tmp_path, theirs):
    content = tar_bytes([("a.png", b"1"), ("a.png", b"2"), ("b.png", b"3"), ("a.txt", b"4")])
    assert [key for key, _ in theirs(content)] == ["a", "a", "b", "a"]
    with pytest.raises(CorruptError, match="sample 'a' has two members 'png'") as caught:
        ours(tmp_path, content, None)
    assert "--duplicates keep" in caught.value.hint
    assert [key for key, _ in ours(tmp_path, content)] == ["a", "a", "b", "a"]


def test_where_we_differ_hidden_files_in_directories(tmp_path, theirs):
    """OpenCLIP takes the `d/._1.txt` of macOS for a sample `d/`, which cuts `d/1` in two; both parts are lost."""
    content = tar_bytes([("d/1.png", b"p"), ("d/._1.txt", b"resource fork"), ("d/1.txt", b"t")])
    assert [key for key, _ in theirs(content)] == ["d/1", "d/", "d/1"]
    assert ours(tmp_path, content) == [("d/1", {"png": b"p", "txt": b"t"})]
