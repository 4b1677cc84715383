"""Which strategy a run gets, and what the replicated one does."""

import pytest
import torch

from clip_testkit.rankwork import group_of, small_model
from clip_trainer.optim import clip_gradient_norm
from clip_trainer.parallel.pieces import assign, is_sharded, like, local, state_like, whole
from clip_trainer.parallel.replicated import Replicated
from clip_trainer.parallel.strategy import parallel_of


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_rank_alone_has_the_whole_model(kind):
    parallel = parallel_of(kind, group_of(0, 1))
    assert isinstance(parallel, Replicated)
    assert not parallel.equal_pieces


def test_ddp_needs_no_process_group_to_begin():
    assert isinstance(parallel_of("ddp", group_of(1, 3)), Replicated)


class TestReplicated:
    @pytest.fixture
    def parallel(self):
        return Replicated(group_of(0, 1))

    def test_the_model_stays_as_it_is(self, parallel):
        model = small_model()
        before = list(model.parameters())
        parallel.adopt(model)
        assert all(one is other for one, other in zip(model.parameters(), before, strict=True))
        with parallel.whole(model), parallel.computing():
            assert not any(map(is_sharded, model.state_dict().values()))

    def test_clipping_is_that_of_the_optimiser(self, parallel):
        def gradients():
            layer = torch.nn.Linear(2, 1)
            layer.weight.grad, layer.bias.grad = torch.tensor([[3.0, 0.0]]), torch.tensor([4.0])
            return layer

        ours, plain = gradients(), gradients()
        parallel.sum_gradients(ours.parameters())
        assert parallel.clip_gradient_norm(ours.parameters(), 1.0) == clip_gradient_norm(plain.parameters(), 1.0)
        assert torch.equal(ours.bias.grad, plain.bias.grad)


class TestWholeTensors:
    def test_they_are_their_own_local_part(self):
        tensor = torch.ones(3)
        assert local(tensor) is tensor
        assert like(torch.zeros(3), tensor) is tensor
        assert whole({"a": tensor})["a"] is tensor

    def test_room_for_moments_is_whole_too(self):
        described = {"exp_avg.a": ((3,), torch.float64), "count.gone": ((2,), torch.int64)}
        room = state_like(described, {"a": torch.ones(3)})
        assert {name: (tuple(t.shape), t.dtype) for name, t in room.items()} == described
        assert not any(map(is_sharded, room.values()))

    def test_assigning_copies(self):
        target, source = torch.zeros(3), torch.ones(3)
        assign(target, source)
        source.zero_()
        assert torch.equal(target, torch.ones(3))
