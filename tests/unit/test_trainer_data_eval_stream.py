"""Evaluation: every sample once, in order, shared between ranks."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from clip_testkit.shards import number_of, png, sample_members, tar_bytes, write_dataset
from clip_trainer.data.index.dataset import open_dataset
from clip_trainer.data.loading.eval_stream import EvalStream
from clipctl.contract.errors import CorruptError


def decode(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def transform(image, key):
    assert key == 0
    return torch.from_numpy(image[:2, :2].copy()).permute(2, 0, 1)


def stream(path, **options):
    return EvalStream(open_dataset(str(path)), decode=decode, transform=transform, **options)


def numbers(chunk):
    return [number_of(image) for image in chunk.images.permute(0, 2, 3, 1).numpy()]


@pytest.mark.parametrize("world", [1, 2, 3, 7])
@pytest.mark.parametrize("chunk", [1, 5, 64])
def test_ranks_share_the_dataset_in_order(tmp_path, world, chunk):
    write_dataset(tmp_path, [4, 1, 6, 2])
    seen = {}
    for rank in range(world):
        for part in stream(tmp_path, rank=rank, world=world, chunk=chunk):
            assert len(part.sample_ids) <= chunk
            assert numbers(part) == part.sample_ids
            assert part.captions == [(f"picture {i}",) for i in part.sample_ids]
            assert part.cls == [None] * len(part.sample_ids)
            seen.setdefault(rank, []).extend(part.sample_ids)
    assert seen == {rank: list(range(rank, 13, world)) for rank in range(world)}


def test_all_captions_and_classes_come_along(tmp_path):
    members = [*sample_members(0, captions=["a", "b"], cls=4), ("1.png", png(1)), ("1.cls", b"2")]
    (tmp_path / "s.tar").write_bytes(tar_bytes(members))
    (part,) = stream(tmp_path)
    assert part.captions == [("a", "b"), ()]
    assert part.cls == [4, 2]
    assert tuple(part.images.shape) == (2, 3, 2, 2)


def test_bad_samples_are_left_out_and_listed(tmp_path):
    members = [
        *sample_members(0),
        ("1.png", b"broken"),
        ("1.txt", b"x"),
        ("2.png", png(2)),
        ("3.png", png(3)),
        ("3.cls", b"x"),
    ]
    (tmp_path / "s.tar").write_bytes(tar_bytes(members))
    evaluation = stream(tmp_path)
    assert [i for part in evaluation for i in part.sample_ids] == [0]
    assert [(item.sample_id, item.key) for item in evaluation.skipped] == [(1, "1"), (2, "2"), (3, "3")]
    assert [item.reason for item in evaluation.skipped] == ["undecodable image", "no caption", "class is not a number"]


def test_a_chunk_of_only_bad_samples_is_not_handed_out(tmp_path):
    members = [m for i in range(4) for m in [(f"{i}.png", b"broken"), (f"{i}.txt", b"x")]] + sample_members(9)
    (tmp_path / "s.tar").write_bytes(tar_bytes(members))
    assert [part.sample_ids for part in stream(tmp_path, chunk=2)] == [[4]]


def test_limit(tmp_path):
    write_dataset(tmp_path, [4, 4])
    assert [i for part in stream(tmp_path, limit=5, world=2, rank=0) for i in part.sample_ids] == [0, 2, 4]
    assert [i for part in stream(tmp_path, limit=100) for i in part.sample_ids] == list(range(8))


def test_leaving_early_is_clean(tmp_path):
    write_dataset(tmp_path, [50])
    chunks = iter(stream(tmp_path, chunk=2))
    assert next(chunks).sample_ids == [0, 1]
    chunks.close()


def test_storage_errors_are_not_skipped(tmp_path):
    write_dataset(tmp_path, [3])
    evaluation = stream(tmp_path)
    shard = tmp_path / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes().replace(b"picture 1", b"picture 7"))
    with pytest.raises(CorruptError, match="differs from the index"):
        list(evaluation)
