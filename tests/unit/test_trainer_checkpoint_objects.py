"""The layout of shares: valid safetensors files, balanced, aligned, and the same on every rank."""

import random
from itertools import pairwise

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from clip_testkit.tinystate import same, state_at
from clip_trainer.checkpoint.objects import ALIGNMENT, dtype_of, plan_shares, total_bytes
from clipctl.contract.errors import CorruptError

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
]
SHAPES = st.lists(st.integers(0, 5), max_size=3)
STATES = st.dictionaries(
    st.sampled_from(["weights", "optimizer", "average"]),
    st.dictionaries(st.text('ab.ä"', min_size=1, max_size=5), st.tuples(SHAPES, st.sampled_from(DTYPES)), max_size=6),
)


def tensors_of(described):
    return {
        part: {name: torch.zeros(shape, dtype=dtype) for name, (shape, dtype) in of.items()}
        for part, of in described.items()
    }


def filled(parts, objects):
    """The bytes of each object, with the tensors in it."""
    buffer = torch.zeros(total_bytes(objects), dtype=torch.uint8)
    for planned in objects:
        header = torch.frombuffer(bytearray(planned.header), dtype=torch.uint8)
        buffer[planned.at : planned.at + len(planned.header)] = header
        for placed in planned.tensors:
            raw = buffer[planned.at + placed.start : planned.at + placed.stop]
            raw.view(placed.extent.dtype).view(placed.extent.shape).copy_(parts[planned.part][placed.name])
    return {planned.name: bytes(buffer[planned.at : planned.stop].numpy()) for planned in objects}


@given(STATES, st.integers(1, 4))
def test_the_files_of_all_ranks_are_the_state(described, world):
    parts = tensors_of(described)
    found = {}
    for rank, objects in enumerate(plan_shares(parts, world)):
        for name, data in filled(parts, objects).items():
            part, _, suffix = name.partition("-")
            assert suffix == f"{rank:05d}-of-{world:05d}.safetensors"
            tensors = safetensors.torch.load(data)
            assert not set(tensors) & set(found.setdefault(part, {}))
            found[part].update(tensors)
    wanted = {part: tensors for part, tensors in parts.items() if tensors}
    assert same(found, wanted)


@given(STATES, st.integers(1, 4))
def test_tensors_are_aligned_to_their_items_and_objects_to_pages(described, world):
    for objects in plan_shares(tensors_of(described), world):
        for planned in objects:
            assert planned.at % ALIGNMENT == 0
            assert all(placed.start % placed.extent.dtype.itemsize == 0 for placed in planned.tensors)
        for before, after in pairwise(objects):
            assert before.stop <= after.at


def test_values_survive():
    parts = state_at(3)
    (objects,) = plan_shares(parts, 1)
    data = filled(parts, objects)
    loaded = {name.partition("-")[0]: safetensors.torch.load(raw) for name, raw in data.items()}
    assert same(loaded, parts)


def test_sizes_are_known_before_there_are_bytes():
    parts = state_at(3)
    for objects in plan_shares(parts, 3):
        data = filled(parts, objects)
        assert {planned.name: planned.size for planned in objects} == {name: len(raw) for name, raw in data.items()}


def test_shares_are_balanced_over_all_parts_together():
    parts = {"weights": {"a": torch.zeros(1000)}, "optimizer": {"a": torch.zeros(1000), "b": torch.zeros(10)}}
    first, second = plan_shares(parts, 2)
    assert [planned.part for planned in first] == ["optimizer"]
    assert [planned.part for planned in second] == ["weights"]
    assert abs(total_bytes(first) - total_bytes(second)) < 2 * ALIGNMENT


def test_ranks_agree_whatever_order_their_dictionaries_have():
    parts = state_at(3)
    shuffled = {}
    for part in reversed(parts):
        items = list(parts[part].items())
        random.Random(1).shuffle(items)
        shuffled[part] = dict(items)
    assert plan_shares(shuffled, 3) == plan_shares(parts, 3)


def test_more_ranks_than_tensors():
    shares = plan_shares({"weights": {"a": torch.zeros(3)}}, 4)
    assert [len(objects) for objects in shares] == [1, 0, 0, 0]
    assert total_bytes(shares[3]) == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_names_of_dtypes(dtype):
    ((planned,),) = plan_shares({"weights": {"a": torch.zeros(3).to(dtype)}}, 1)
    assert dtype_of(planned.tensors[0].extent.dtype_name) == dtype
    assert (
        safetensors.torch.load(filled({"weights": {"a": torch.ones(3).to(dtype)}}, [planned])[planned.name])["a"].dtype
        == dtype
    )


def test_an_unknown_dtype_is_damage():
    with pytest.raises(CorruptError, match="type F4, which is not known"):
        dtype_of("F4")
