"""The staging buffer: one for the whole run, ready before it is needed."""

from clip_trainer.checkpoint.staging import Staging


def test_it_is_taken_once():
    staging = Staging()
    first = staging.room(1000)
    first.fill_(7)
    again = staging.room(1000)
    assert again.data_ptr() == first.data_ptr()
    assert again.unique().tolist() == [7]


def test_less_is_a_part_of_it():
    staging = Staging()
    whole = staging.room(1000)
    part = staging.room(10)
    assert part.numel() == 10
    assert part.data_ptr() == whole.data_ptr()
    assert staging.capacity == 1000


def test_it_grows():
    staging = Staging()
    staging.room(10)
    assert staging.room(20).numel() == 20
    assert staging.capacity == 20


def test_what_was_prepared_is_used():
    staging = Staging()
    staging.prepare(5000)
    room = staging.room(4000)
    assert (room.numel(), staging.capacity) == (4000, 5000)
    assert room.count_nonzero() == 0


def test_preparing_twice_or_for_less_changes_nothing():
    staging = Staging()
    staging.prepare(5000)
    staging.prepare(9000)  # while the first is on its way
    pointer = staging.room(1).data_ptr()
    staging.prepare(4000)
    assert staging.room(5000).data_ptr() == pointer


def test_more_than_was_prepared():
    staging = Staging()
    staging.prepare(50)
    assert staging.room(60).numel() == 60
    staging.prepare(70)
    assert staging.room(70).numel() == 70
    assert staging.capacity == 70
