import pytest

from clip_testkit.madeup import MadeUpSamples
from clip_testkit.shards import write_dataset
from clip_trainer.data.bench import parse as bench_parse
from clip_trainer.data.bench.parse import time_parsing
from clip_trainer.data.index.dataset import open_dataset
from clip_trainer.data.samples.joined import JoinedSamples


@pytest.fixture
def dataset(tmp_path):
    write_dataset(tmp_path, (7, 3))
    return open_dataset(str(tmp_path))


@pytest.fixture
def parsed(monkeypatch):
    """Keys of the samples that were taken apart."""
    keys = []
    original = bench_parse.parse_sample

    def parse_sample(data, where):
        sample = original(data, where)
        keys.append(sample.key)
        return sample

    monkeypatch.setattr(bench_parse, "parse_sample", parse_sample)
    return keys


def test_samples_of_the_first_shard_are_taken_apart(dataset, parsed):
    timing = time_parsing(dataset, threads=1, seconds=0.05)
    assert timing.samples == len(parsed)
    assert set(parsed) <= {f"{number:06d}" for number in range(7)}
    assert parsed[0] == "000000"


def test_a_large_shard_is_read_in_part(dataset, parsed, monkeypatch):
    monkeypatch.setattr(bench_parse, "_BYTES", 5000)
    before = dataset.source.counters.bytes_read
    # A thread takes one however late it comes, and three would take the third sample if it were there.
    time_parsing(dataset, threads=3, seconds=0)
    assert set(parsed) == {"000000", "000001"}
    assert dataset.source.counters.bytes_read - before <= 5000


def test_one_sample_is_taken_however_large_it_is(dataset, parsed, monkeypatch):
    monkeypatch.setattr(bench_parse, "_BYTES", 1)
    time_parsing(dataset, threads=1, seconds=0)
    assert parsed == ["000000"]


def test_the_first_source_with_shards(dataset, parsed):
    def never(shard, index):
        raise AssertionError("made-up samples are in no shard")

    assert time_parsing(JoinedSamples([MadeUpSamples([5], never), dataset]), threads=1, seconds=0)
    assert parsed == ["000000"]
    assert time_parsing(MadeUpSamples([5], never), threads=1, seconds=0) is None
