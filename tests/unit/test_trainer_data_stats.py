import pytest

from clip_testkit.flawedshards import SAMPLES, write_flawed
from clip_testkit.shards import sample_members, tar_bytes, write_dataset
from clip_trainer.data.check.stats import dataset_stats
from clip_trainer.data.index.dataset import index_dataset, open_dataset
from clip_trainer.data.index.rules import SampleRules
from clip_trainer.data.index.update import IndexOptions


@pytest.fixture
def dataset(tmp_path):
    write_dataset(tmp_path, (3, 5, 4))
    return open_dataset(str(tmp_path))


def test_totals(dataset, tmp_path):
    stats = dataset_stats(dataset)
    assert (stats.data, stats.shards, stats.samples) == (str(tmp_path), 3, 12)
    assert stats.bytes == sum(path.stat().st_size for path in tmp_path.glob("*.tar"))
    assert (stats.digest, stats.identity) == (dataset.index.digest, dataset.identity)
    assert (stats.shards_with_etag, stats.shards_with_xxh3) == (0, 3)


def test_samples_and_bytes_of_shards(dataset, tmp_path):
    stats = dataset_stats(dataset)
    samples = stats.samples_per_shard
    assert (samples.minimum, samples.median, samples.maximum, samples.total) == (3, 4, 5, 3)
    sizes = sorted(path.stat().st_size for path in tmp_path.glob("*.tar"))
    assert (stats.bytes_per_shard.minimum, stats.bytes_per_shard.maximum) == (sizes[0], sizes[-1])


def test_sizes_of_samples(dataset):
    sizes = dataset_stats(dataset).bytes_per_sample
    expected = [shard.sample_range(place)[1] for shard in dataset.index.shards for place in range(shard.samples)]
    assert (sizes.total, sizes.minimum, sizes.maximum) == (12, min(expected), max(expected))
    assert sum(sizes.counts) == 12


def test_sizes_are_taken_from_some_shards_of_a_large_data_set(tmp_path):
    write_dataset(tmp_path, [10] * 12)
    dataset = open_dataset(str(tmp_path))
    touched = []
    original = type(dataset.index).block

    def block(index, shard):
        touched.append(shard)
        return original(index, shard)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(dataset.index), "block", block)
        stats = dataset_stats(dataset, sized_samples=30)
    assert stats.bytes_per_sample.total == 30
    assert touched == [0, 4, 8]  # evenly spread, and no other rows were read


def test_members_and_what_samples_have(tmp_path):
    write_flawed(tmp_path)
    stats = dataset_stats(open_dataset(str(tmp_path)))
    assert stats.samples == SAMPLES == 51
    assert stats.suffixes == {"txt": 49, "jpg": 38, "json": 20, "png": 11}
    assert list(stats.suffixes) == ["txt", "jpg", "json", "png"]
    assert (stats.with_image, stats.with_caption, stats.with_class) == (49, 49, 0)


def test_classes(tmp_path):
    members = [member for number in range(4) for member in sample_members(number, cls=number if number else None)]
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))
    assert dataset_stats(open_dataset(str(tmp_path))).with_class == 3


def test_no_shard_is_read(dataset, tmp_path):
    for path in tmp_path.glob("*.tar"):
        path.unlink()
    assert dataset_stats(dataset).samples == 12


def test_without_rules_nothing_is_left_out(dataset):
    stats = dataset_stats(dataset)
    assert (stats.rules, stats.left_out, stats.damaged) == ({}, {}, {})


def test_what_the_rules_left_out(tmp_path):
    write_flawed(tmp_path)
    index_dataset(str(tmp_path), IndexOptions(rules=SampleRules(needs=("image", "caption"))))
    stats = dataset_stats(open_dataset(str(tmp_path)))
    assert stats.samples == 51 - 5
    assert stats.left_out == {"no caption": 3, "no image": 2}
    assert stats.rules == {"needs": ("image", "caption")}
