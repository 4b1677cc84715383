"""The collectives that are not about the loss: control messages, sums, failures that all ranks must hear of."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from clip_testkit import rankwork
from clip_testkit.ranks import run_ranks
from clip_trainer.train import group as group_module
from clip_trainer.train.group import Group, _buckets, alone
from clipctl.contract.errors import CorruptError


@pytest.mark.parametrize("world", [2, 3])
def test_every_collective(world, tmp_path):
    answers = run_ranks(world, tmp_path, rankwork.collectives, world)
    assert all(answer == answers[0] for answer in answers)
    (answer, *_) = answers
    assert answer["gathered"] == [(rank, rank * 1000) for rank in range(world)]
    assert answer["broadcast"] == 0
    assert answer["first"] == {"did": 0}
    assert answer["sum"] == [sum(range(world)), world]
    torch.manual_seed(0)
    assert answer["tensor"] == torch.rand(5).tolist()


def test_a_failure_of_rank_0_is_the_same_error_on_every_rank(tmp_path):
    answers = run_ranks(2, tmp_path, rankwork.failing_on_first, 2)
    assert answers == [["SpecError", "wrong.", "mend it.", 64]] * 2


def test_the_others_are_told_while_rank_0_works_on(tmp_path):
    """Else a checkpoint that takes longer to read than a collective may last could never be resumed from."""
    assert run_ranks(2, tmp_path, rankwork.patient_on_first, 2) == [[True, True]] * 2


@pytest.mark.parametrize(("timeouts", "late", "outcome"), [([0.2], 100.0, "lost a peer"), ([0.2, 100.0], 1.0, "sum 2")])
def test_a_late_rank_is_waited_for_as_long_as_was_set_last(timeouts, late, outcome, tmp_path):
    work = rankwork.waiting_for_a_late_rank
    assert run_ranks(2, tmp_path, work, 2, str(tmp_path), timeouts, late)[0] == outcome


@pytest.mark.parametrize("bucket", [1, 4, 1000])
def test_gradients_are_summed_whatever_the_bucket(bucket, tmp_path):
    answers = run_ranks(2, tmp_path, rankwork.summed_gradients, 2, bucket)
    shapes = (3, 4, 1, 7, 5)
    expected = [[3.0 * (i + index) for i in range(count)] for index, count in enumerate(shapes)]
    assert answers == [expected, expected]


class TestAlone:
    @pytest.fixture
    def group(self):
        return Group(0, 1, 0, torch.device("cpu"))

    def test_collectives_need_no_process_group(self, group):
        assert group.is_first
        assert group.broadcast_json({"a": 1}) == {"a": 1}
        assert group.gather_json(5) == [5]
        assert group.on_first(lambda: 7) == 7
        assert group.sum(torch.tensor([2])).tolist() == [2]
        group.barrier()
        group.broadcast_tensors([torch.zeros(1)])
        group.sum_gradients([torch.nn.Parameter(torch.zeros(1))])

    def test_an_error_keeps_its_class(self, group):
        def fail():
            raise CorruptError("bad.", hint="restore.")

        with pytest.raises(CorruptError, match=r"bad\. restore\."):
            group.on_first(fail)

    def test_a_bug_is_not_dressed_up_as_a_user_error(self, group):
        with pytest.raises(ZeroDivisionError):
            group.on_first(lambda: 1 / 0)


class TestBuckets:
    def gradients(self, *sizes, dtype=torch.float32):
        return [torch.zeros(size, dtype=dtype) for size in sizes]

    def test_they_are_bounded_and_keep_the_order(self, monkeypatch):
        monkeypatch.setattr(group_module, "_BUCKET_ELEMENTS", 10)
        found = [[g.numel() for g in bucket] for bucket in _buckets(self.gradients(4, 6, 1, 20, 3, 3))]
        assert found == [[4, 6], [1], [20], [3, 3]]

    def test_types_are_not_mixed(self):
        gradients = [*self.gradients(1, 1), *self.gradients(1, dtype=torch.float64)]
        assert [len(bucket) for bucket in _buckets(gradients)] == [2, 1]

    def test_nothing(self):
        assert list(_buckets([])) == []


class TestPlace:
    @pytest.fixture(autouse=True)
    def threads(self):
        before = torch.get_num_threads()
        yield
        torch.set_num_threads(before)

    def test_a_process_begins_without_peers(self):
        group = alone(1, 2, 0)
        assert (group.rank, group.world, group.local_rank, group.device.type) == (0, 1, 1, "cpu")
        assert not torch.distributed.is_initialized()

    def test_cores_are_shared_among_the_ranks_of_a_node(self, monkeypatch):
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
        alone(0, 4, 0)
        assert torch.get_num_threads() == 2

    def test_the_users_number_of_threads_is_kept(self, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        before = torch.get_num_threads()
        alone(0, 4, 0)
        assert torch.get_num_threads() == before


class TestBecome:
    def test_holders_of_the_group_see_the_new_place(self):
        group = Group(0, 1, 0, torch.device("cpu"))
        holder = group
        group.become(2, 3)
        assert (holder.rank, holder.world, holder.is_first) == (2, 3, False)

    def test_an_action_of_the_old_group_ends_first(self):
        group, ended = Group(0, 2, 0, torch.device("cpu")), []
        begun, may_end = threading.Event(), threading.Event()

        def action():
            begun.set()
            may_end.wait(60)
            ended.append(True)

        with ThreadPoolExecutor(2) as pool:
            group._action = pool.submit(group._attempt, action)
            begun.wait(60)
            change = pool.submit(group.become, 0, 1)
            assert group.world == 2
            may_end.set()
            change.result(60)
        assert ended == [True]
        assert group.world == 1
