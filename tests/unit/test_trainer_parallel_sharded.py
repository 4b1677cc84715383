"""A sharded model is trained exactly as a whole one, and its state can be stored and filled piece by piece."""

from functools import cache
from itertools import combinations

import numpy as np
import pytest

from clip_testkit.objectivework import Setup, tiny_batch
from clip_testkit.parallelwork import (
    Case,
    continued_from_openclip,
    descriptors_after_groups,
    refusals,
    resumed_from_damaged,
    saved_and_resumed,
    train,
    train_sharded,
    write_openclip_checkpoint,
)
from clip_testkit.ranks import run_ranks
from clip_testkit.rankwork import group_of
from clip_trainer.parallel.pieces import rows_of
from clip_trainer.parallel.replicated import Replicated
from clipctl.contract import layout
from clipctl.contract.commits import read_commit, read_manifest
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store_local import LocalStore

ROWS = 8
CACHED = Case(Setup("clip", micro_batch=2), max_norm=1.0)
LOCKED = Case(Setup("clip", taught=True, grad_checkpointing=True), locked=True)
SIGMOID = Case(Setup("siglip", micro_batch=3), "adam", steps=2)
CAPTIONS = Case(Setup("coca", micro_batch=4), "sgd", max_norm=1.0, steps=2)


@cache
def alone(case):
    """The case in one process with the whole model."""
    group = group_of(0, 1)
    return train(case, group, Replicated(group), tiny_batch((ROWS,)))


# Uneven shares, so that one rank has fewer micro-batches than another, or no samples at all.
@pytest.mark.parametrize(
    ("counts", "cases"), [((5, 3), [CACHED, LOCKED]), ((2, 0, 6), [CACHED]), ((4, 4), [SIGMOID, CAPTIONS])]
)
def test_losses_gradients_weights_and_moments_are_those_of_one_process(counts, cases, tmp_path):
    for answers in run_ranks(len(counts), tmp_path, train_sharded, cases, counts):
        for answer, case in zip(answers, cases, strict=True):
            expected = alone(case)
            for seen, wanted in zip(answer.losses, expected.losses, strict=True):
                assert seen == pytest.approx(wanted, rel=1e-9)
            assert answer.norms == pytest.approx(expected.norms, rel=1e-9)
            for kind in ("weights", "average", "moments"):
                seen, wanted = getattr(answer, kind), getattr(expected, kind)
                assert seen.keys() == wanted.keys()
                for name, array in wanted.items():
                    np.testing.assert_allclose(seen[name], array, rtol=1e-9, atol=1e-9, err_msg=f"{kind} {name}")
            np.testing.assert_allclose(answer.embedded, expected.embedded, rtol=1e-9, atol=1e-9)


def test_training_changes_what_it_should():
    """Else the comparison would compare nothing."""
    for case in (CACHED, LOCKED, SIGMOID, CAPTIONS):
        trained = alone(case)
        assert trained.losses[-1] != trained.losses[0]
        assert len(set(trained.norms)) == len(trained.norms)
    clipped = alone(CACHED)
    assert all(norm > 1.0 for norm in clipped.norms[:2])
    assert len(clipped.moments) == 2 * len(clipped.weights) - 2  # but for the moments of logit_scale, single numbers


@pytest.mark.parametrize("world", [2, 3])
def test_a_resumed_state_goes_on_bit_for_bit(world, tmp_path):
    answers = run_ranks(world, tmp_path, saved_and_resumed, world, str(tmp_path / "store"))
    for answer in answers:
        assert answer["found"] == ("step-00000001.inc-000001", 12)
        for name, array in answer["went_on"].items():
            assert np.array_equal(answer["resumed"][name], array), name


def test_each_rank_reads_its_own_files(tmp_path):
    """And those with the few numbers that are not sharded."""
    store = LocalStore(tmp_path / "store")
    answers = run_ranks(2, tmp_path, saved_and_resumed, 2, str(tmp_path / "store"))
    checkpoint = CheckpointId(1, 1)
    objects = read_manifest(store, read_commit(store, checkpoint)).objects
    unsharded = {o.name for o in objects for entry in o.tensors.values() if entry.offsets is None}
    for rank, answer in enumerate(answers):
        own = {stored.name for stored in objects if f"-{rank:05d}-of" in stored.name}
        read = {key.removeprefix(layout.checkpoint_prefix(checkpoint)) for key in answer["reads"]}
        assert own <= read <= own | unsharded
    sizes = [sum(o.size for o in objects if f"-{rank:05d}-of" in o.name) for rank in (0, 1)]
    assert max(sizes) < 0.6 * sum(sizes)


def test_groups_that_are_gone_leave_no_sockets(tmp_path):
    for first, *later in run_ranks(2, tmp_path, descriptors_after_groups, str(tmp_path), 4):
        assert later == [first] * 3


def test_what_one_rank_finds_damaged_no_rank_uses(tmp_path):
    first, second = run_ranks(2, tmp_path, resumed_from_damaged, 2, str(tmp_path / "store"))
    for answer in (first, second):
        assert answer["found"] == "step-00000001.inc-000001"
        assert answer["went_back"]
        assert answer["none_left"].startswith("all 2 committed checkpoints")
    assert second["rejected"] == []
    ((checkpoint, problem),) = first["rejected"]
    assert checkpoint == "step-00000002.inc-000001"
    assert "weights-00001-of-00002.safetensors is damaged" in problem


def test_a_training_checkpoint_of_openclip_is_continued(tmp_path):
    path = str(tmp_path / "epoch_2.pt")
    write_openclip_checkpoint(path)
    position, weights, moments = continued_from_openclip(0, 1, path)
    assert position == (2, 3)
    for answer in run_ranks(2, tmp_path, continued_from_openclip, 2, path):
        assert answer[0] == position
        for found, wanted in ((answer[1], weights), (answer[2], moments)):
            assert found.keys() == wanted.keys()
            assert all(np.array_equal(found[name], array) for name, array in wanted.items())


def test_what_cannot_be_sharded_is_refused(tmp_path):
    for tower, types in run_ranks(2, tmp_path, refusals, 2):
        assert tower == "64 train.parallel fsdp needs native towers: a ViT and CLIP's text transformer. " + (
            "Set train.parallel to ddp."
        )
        assert types.startswith("64 train.parallel fsdp needs weights of one type, not float16, float32")


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("rows", [0, 1, 2, 5, 12, 1000])
def test_rows_are_cut_as_torch_cuts_them(rows, world):
    cut = [rows_of(rows, rank, world) for rank in range(world)]
    assert [start for start, _ in cut] == [min(rows, -(-rows // world) * rank) for rank in range(world)]
    taken = [set(range(start, stop)) for start, stop in cut]
    assert set().union(*taken) == set(range(rows))
    assert not any(one & other for one, other in combinations(taken, 2))
    chunks = np.array([stop - start for start, stop in cut])
    assert (np.diff(chunks) <= 0).all()
