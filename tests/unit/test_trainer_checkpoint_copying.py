"""Copying beside the next step: what a forward pass may change is copied at once, the rest before the next update."""

import threading

import pytest
import torch

from clip_trainer.checkpoint.copying import AT_ONCE_BYTES, ShareCopy
from clip_trainer.checkpoint.objects import plan_shares, total_bytes
from clipctl.contract.errors import InternalError

BIG = AT_ONCE_BYTES // 4 + 1


def copy_of(parts):
    (objects,) = plan_shares(parts, 1)
    buffer = torch.zeros(total_bytes(objects), dtype=torch.uint8)
    return ShareCopy(parts, objects, buffer), buffer, objects


def value(buffer, objects, name):
    for planned in objects:
        for placed in planned.tensors:
            if placed.name == name:
                raw = buffer[planned.at + placed.start : planned.at + placed.stop]
                return raw.view(placed.extent.dtype).view(placed.extent.shape)
    raise KeyError(name)


def test_small_tensors_are_copied_at_once_and_large_ones_later():
    parts = {"weights": {"small": torch.ones(AT_ONCE_BYTES // 4), "large": torch.ones(BIG)}}
    copy, buffer, objects = copy_of(parts)
    parts["weights"]["small"].fill_(2.0)  # as a forward pass changes running statistics
    assert value(buffer, objects, "small").unique().tolist() == [1.0]
    assert value(buffer, objects, "large").unique().tolist() == [0.0]
    copy.run()
    assert value(buffer, objects, "small").unique().tolist() == [1.0]
    assert value(buffer, objects, "large").unique().tolist() == [1.0]


def test_moments_are_never_copied_at_once():
    """No forward pass changes them, and there are many."""
    parts = {"optimizer": {"small": torch.ones(3)}}
    copy, buffer, objects = copy_of(parts)
    assert value(buffer, objects, "small").tolist() == [0.0, 0.0, 0.0]
    copy.run()
    assert value(buffer, objects, "small").tolist() == [1.0, 1.0, 1.0]


def test_headers_are_there_at_once():
    _, buffer, (planned,) = copy_of({"weights": {"large": torch.ones(BIG)}})
    assert bytes(buffer[: len(planned.header)].numpy()) == planned.header


def test_parameters_views_and_other_layouts():
    base = torch.arange(4.0 * BIG).reshape(4, BIG)
    parts = {
        "weights": {
            "parameter": torch.nn.Parameter(torch.rand(BIG)),
            "column": base[:, ::2],
            "turned": base.T,
            "half": torch.rand(2 * BIG).to(torch.bfloat16),
        }
    }
    copy, buffer, objects = copy_of(parts)
    copy.run()
    for name, tensor in parts["weights"].items():
        assert torch.equal(value(buffer, objects, name), tensor.detach()), name


def test_the_barrier_opens_when_all_is_copied():
    copy, _, _ = copy_of({"weights": {"large": torch.ones(BIG)}})
    passed = threading.Event()

    def update():
        copy.finish_before_update()
        passed.set()

    thread = threading.Thread(target=update)
    thread.start()
    assert not passed.is_set()
    copy.run()
    thread.join()
    assert passed.is_set()


def test_without_large_tensors_the_barrier_is_open_from_the_start():
    copy, _, _ = copy_of({"weights": {"small": torch.ones(3)}})
    copy.finish_before_update()


def test_an_empty_share():
    copy, buffer, _ = copy_of({"weights": {}})
    copy.finish_before_update()
    copy.run()
    assert buffer.numel() == 0


def test_a_cancelled_copy_ends_early_and_opens_the_barrier():
    copy, buffer, objects = copy_of({"weights": {"large": torch.ones(BIG)}})
    copy.cancel()
    copy.run()
    copy.finish_before_update()
    assert value(buffer, objects, "large").count_nonzero() == 0


def test_a_copy_that_fails_opens_the_barrier_and_says_so():
    parts = {"weights": {"large": torch.ones(BIG)}}
    (objects,) = plan_shares(parts, 1)
    parts["weights"]["large"] = torch.ones(BIG, 2)  # changed its shape since it was planned
    copy = ShareCopy(parts, objects, torch.zeros(total_bytes(objects), dtype=torch.uint8))
    with pytest.raises(InternalError, match="could not be copied for its checkpoint"):
        copy.run()
    copy.finish_before_update()
