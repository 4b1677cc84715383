"""Blocks as files: any part alone, verified, whole or not at all."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_trainer.data.storage import block_file
from clip_trainer.data.storage.block_file import PIECE, DamagedBlockError, file_bytes, read_block, write_block

SIZE = 3 * PIECE + 1000
BLOCK = random.Random(5).randbytes(SIZE)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("d") / "x" / "one.block"
    write_block(path, BLOCK)
    return path


@given(start=st.integers(0, SIZE + 10), length=st.integers(0, SIZE + 10))
def test_any_part_is_read_alone(path, start, length):
    assert read_block(path, start, start + length) == BLOCK[start : start + length]


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE])
def test_blocks_of_any_size(tmp_path, size):
    write_block(tmp_path / "d" / "x", BLOCK[:size])
    assert read_block(tmp_path / "d" / "x", 0, SIZE) == BLOCK[:size]
    assert (tmp_path / "d" / "x").stat().st_size == file_bytes(size)
    assert [file.name for file in (tmp_path / "d").iterdir()] == ["x"]


def test_only_the_pieces_that_are_wanted_are_read(path, monkeypatch):
    asked = []
    pread = block_file.os.pread

    def noted(descriptor, count, offset):
        asked.append(count)
        return pread(descriptor, count, offset)

    monkeypatch.setattr(block_file.os, "pread", noted)
    read_block(path, PIECE + 5, PIECE + 10)
    assert sum(asked) < PIECE + 200


@pytest.mark.parametrize("seed", range(40))
def test_no_damage_goes_unnoticed(path, tmp_path, seed):
    chance = random.Random(seed)
    content = bytearray(path.read_bytes())
    head = file_bytes(SIZE) - SIZE
    if seed % 4 == 0:
        del content[chance.randrange(len(content)) :]
    else:
        content[chance.randrange(head if seed % 4 == 1 else len(content))] ^= 1 << chance.randrange(8)
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(DamagedBlockError):
        read_block(tmp_path / "x", 0, SIZE)


def test_damage_elsewhere_does_not_matter(path, tmp_path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    (tmp_path / "x").write_bytes(content)
    assert read_block(tmp_path / "x", 0, PIECE) == BLOCK[:PIECE]


def test_the_size_of_a_file_of_something_else_is_not_believed(tmp_path):
    (tmp_path / "x").write_bytes(b"CLB1" + b"\xff" * 100)
    with pytest.raises(DamagedBlockError):
        read_block(tmp_path / "x", 0, 10)
    with pytest.raises(FileNotFoundError):
        read_block(tmp_path / "none", 0, 10)
