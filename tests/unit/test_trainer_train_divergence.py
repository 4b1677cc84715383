"""Ranks whose weights have become others: any flipped bit is seen, and the minority is named."""

import pytest
import torch

from clip_testkit.healthwork import checked_after_a_flip
from clip_testkit.ranks import run_ranks
from clip_testkit.rankwork import group_of
from clip_trainer.train.divergence import DivergenceError, ReplicaCheck, Verdict, checksum, judge
from clipctl.contract.errors import ExitCode


def tensors():
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(3, 5000, generator=generator),
        torch.randn(7, generator=generator).to(torch.bfloat16),
        torch.randn((), generator=generator),
        torch.randint(0, 9, (3,), generator=generator),
        torch.tensor([True, False, True]),
        torch.zeros(0, 4),
    ]


def flip(tensor, byte, bit):
    raw = tensor.reshape(-1).view(torch.uint8)
    raw[byte] ^= 1 << bit


class TestChecksum:
    def test_equal_tensors_have_the_same(self):
        assert checksum(tensors()) == checksum(tensors())
        assert -(1 << 63) <= checksum(tensors()) < 1 << 63

    def test_it_is_the_same_in_every_release(self):
        """The ledger keeps it, and runs outlive releases."""
        words = torch.arange(10_000, dtype=torch.int64)
        assert checksum([words, torch.ones(3)]) == 3305261449559597879

    @pytest.mark.parametrize("place", [0, 1, 2, 3, 4])
    def test_every_flipped_bit_changes_it(self, place):
        whole = checksum(tensors())
        size = tensors()[place].nbytes
        for byte in {0, 1, size // 2, size - 2, size - 1} & set(range(size)):
            for bit in (0, 6, 7):
                changed = tensors()
                flip(changed[place], byte, bit)
                assert checksum(changed) != whole, (byte, bit)

    def test_the_sign_of_zero_counts(self):
        assert checksum([torch.zeros(9)]) != checksum([-torch.zeros(9)])

    def test_order_and_shape_of_the_parts_count(self):
        one, two = torch.ones(8), torch.full((8,), 2.0)
        assert checksum([one, two]) != checksum([two, one])
        assert checksum([torch.zeros(8)]) != checksum([torch.zeros(16)])
        assert checksum([torch.zeros(8), torch.zeros(8)]) != checksum([torch.zeros(16)])
        assert checksum([torch.arange(8.0)]) != checksum([torch.arange(8.0).flip(0)])

    def test_layout_in_memory_does_not_count(self):
        matrix = torch.arange(60.0).reshape(6, 10)
        assert checksum([matrix.T]) == checksum([matrix.T.contiguous()])
        assert checksum([matrix[1:]]) == checksum([matrix[1:].clone()])
        shifted = torch.arange(61.0)[1:]  # begins in the middle of a word
        assert checksum([shifted]) == checksum([shifted.clone()])

    def test_nothing_has_a_checksum_too(self):
        assert checksum([]) == 0

    def test_it_neither_changes_nor_tracks_parameters(self):
        parameter = torch.nn.Parameter(torch.ones(5))
        checksum([parameter])
        assert torch.equal(parameter.detach(), torch.ones(5))
        assert parameter.grad is None


class TestJudging:
    @pytest.mark.parametrize(
        ("checksums", "verdict"),
        [
            ([5], None),
            ([5, 5, 5], None),
            ([5, 6, 5], Verdict((1,), True)),
            ([6, 5, 5, 7, 5], Verdict((0, 3), True)),
            ([5, 6], Verdict((0, 1), False)),
            ([5, 5, 6, 6], Verdict((0, 1, 2, 3), False)),
            ([5, 5, 6, 7], Verdict((0, 1, 2, 3), False)),
            ([0, -1, -1], Verdict((0,), True)),
        ],
    )
    def test_the_minority_is_named(self, checksums, verdict):
        assert judge(checksums) == verdict

    @pytest.mark.parametrize(
        ("verdict", "words"),
        [
            (Verdict((2,), True), "rank 2 has other weights than the majority"),
            (Verdict((0, 3, 4), True), "ranks 0, 3 and 4 have other weights than the majority"),
            (Verdict((0, 1), False), "ranks 0 and 1 have different weights, and there is no majority"),
        ],
    )
    def test_in_words(self, verdict, words):
        assert str(verdict) == words


class Peers:
    """A group of three; `answers` makes the checksums of all ranks from rank 0's."""

    def __init__(self, answers=lambda own: [own] * 3):
        self.answers, self.asked = answers, 0

    def gather_json(self, own):
        self.asked += 1
        return self.answers(own)


def check_of(group, every=4):
    told = []

    def tell(event, message, **fields):
        told.append((event, message, fields))

    return ReplicaCheck(tensors, group, every, tell), told


class TestChecking:
    def test_when_it_is_due(self):
        check, _ = check_of(Peers())
        found = [check.own(step) for step in range(1, 9)]
        assert [value is not None for value in found] == [False, False, False, True] * 2
        assert found[3] == checksum(tensors())

    def test_before_a_checkpoint_it_is_due_too(self):
        check, _ = check_of(Peers())
        assert check.own(5, saving=True) == checksum(tensors())

    def test_zero_compares_never(self):
        check, _ = check_of(Peers(), every=0)
        assert check.own(4, saving=True) is None

    def test_equal_ranks_are_not_worth_a_word(self):
        group = Peers()
        check, told = check_of(group)
        check.compare(4, 17)
        assert (group.asked, told) == (1, [])

    def test_a_rank_that_differs_is_told_and_raised(self):
        check, told = check_of(Peers(lambda own: [own, own, own ^ 1]))
        words = r"after step 8 rank 2 has other weights than the majority\."
        with pytest.raises(DivergenceError, match=words) as caught:
            check.compare(8, 17)
        assert caught.value.ranks == (2,)
        assert caught.value.code == ExitCode.TRY_AGAIN
        ((event, message, fields),) = told
        assert (event, message) == ("divergence", "after step 8 rank 2 has other weights than the majority")
        assert fields == {"step": 8, "ranks": [2], "certain": True, "checksums": [17, 17, 16]}

    def test_alone_there_is_nobody_to_differ_from(self):
        check, told = check_of(group_of(0, 1))
        check.compare(4, 17)
        assert told == []


@pytest.mark.parametrize(("world", "named"), [(2, (0, 1)), (3, (1,))])
def test_a_flipped_bit_in_one_rank_is_found_at_the_next_comparison(world, named, tmp_path):
    answers = run_ranks(world, tmp_path, checked_after_a_flip, world)
    for before, ranks, told in answers:
        assert before == answers[0][0]
        assert ranks == named
        assert told == 1
