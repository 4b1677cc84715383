"""Micro-batches: sizes, text length, and a rank without samples."""

import numpy as np
import pytest
import torch

from clip_trainer.data.loading.batch import Batch
from clip_trainer.train.micro_batch import split

SIZE = 7


@pytest.fixture
def batch():
    return Batch(
        images=torch.zeros(SIZE, 3, 16, 16, dtype=torch.uint8),
        tokens=torch.zeros(SIZE, 16, dtype=torch.int64),
        text_lengths=torch.full((SIZE,), 4, dtype=torch.int32),
        text_max_len=4,
        sample_ids=np.arange(SIZE, dtype=np.uint64),
        position_start=14,
        position_end=14 + SIZE,
        counts=(SIZE,),
        replaced=(),
        wait_seconds=0.5,
    )


@pytest.mark.parametrize(("size", "lengths"), [(1, [1] * 7), (3, [3, 3, 1]), (7, [7]), (50, [7])])
def test_sizes(batch, size, lengths):
    assert [len(part.images) for part in split(batch, size)] == lengths


@pytest.mark.parametrize(("longest", "rounded"), [(0, 8), (1, 8), (4, 8), (8, 8), (9, 16), (16, 16)])
def test_text_length_is_rounded_up_within_the_context(batch, longest, rounded):
    batch.text_max_len = longest
    assert {part.text_length for part in split(batch, 3)} == {rounded}


def test_every_sample_has_a_key_of_its_own_at_its_turn(batch):
    keys = np.concatenate([part.keys for part in split(batch, 3)])
    assert len(set(keys.tolist())) == SIZE
    assert (keys == np.concatenate([part.keys for part in split(batch, 100)])).all()
    batch.position_start += SIZE
    assert not set(keys.tolist()) & set(next(split(batch, 100)).keys.tolist())


def test_no_samples_are_still_one_part(batch):
    """Every rank must take part in the collectives of the loss."""
    batch.images, batch.tokens = batch.images[:0], batch.tokens[:0]
    assert [len(part.images) for part in split(batch, 3)] == [0]


@pytest.mark.parametrize(("counts", "size", "lengths"), [((7, 3), 3, [3, 3, 1]), ((7, 9, 12), 3, [3, 3, 1, 0])])
def test_ranks_can_have_equally_many_pieces(batch, counts, size, lengths):
    batch.counts = counts
    assert [len(part.images) for part in split(batch, size, equally=True)] == lengths


def test_a_rank_without_samples_can_have_as_many_pieces_as_the_others(batch):
    batch.images, batch.tokens, batch.counts = batch.images[:0], batch.tokens[:0], (0, 7)
    assert [len(part.images) for part in split(batch, 3, equally=True)] == [0, 0, 0]
