"""The ledger: what is written is stored in order, credentials are not, and lost work does not count."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_testkit.clock import FakeClock
from clip_testkit.eventlogs import opened
from clip_trainer.train.events import EventLog, read_events, trajectory
from clipctl.contract.errors import UnavailableError
from clipctl.contract.store_local import LocalStore


class Flaky(LocalStore):
    """A store that is down when told so."""

    down = False

    def write(self, key, data):
        if self.down:
            raise UnavailableError("S3 did not serve s3://user:password123@host/run: timeout.")
        super().write(key, data)


@pytest.fixture
def clock():
    return FakeClock(100.0)


@pytest.fixture
def store(tmp_path):
    return Flaky(tmp_path)


def names(store):
    return [event["event"] for event in read_events(store)]


class TestWriting:
    def test_events_wait_for_a_flush(self, store, clock):
        log = opened(store, 3, clock)
        log.write("step", step=1)
        assert names(store) == []
        log.flush()
        assert list(read_events(store)) == [{"time": 100.0, "event": "step", "incarnation": 3, "step": 1}]

    def test_each_flush_is_a_segment_that_never_changes(self, store, clock):
        log = opened(store, 3, clock)
        for step in (1, 2):
            log.write("step", step=step)
            log.flush()
        log.flush()  # nothing pending: no empty segment
        keys = [info.key for info in store.list("events/")]
        assert keys == ["events/inc-000003/000000.jsonl", "events/inc-000003/000001.jsonl"]

    def test_a_flush_is_due_after_ten_seconds(self, store, clock):
        log = opened(store, 1, clock)
        log.write("a")
        clock.advance(9.9)
        log.flush_if_due()
        assert names(store) == []
        clock.advance(0.2)
        log.flush_if_due()
        assert names(store) == ["a"]
        log.write("b")
        log.flush_if_due()
        assert names(store) == ["a"]

    def test_announcements_are_printed_and_stored_at_once(self, store, clock, capsys):
        opened(store, 1, clock).announce("started", "demo: hello", step=0)
        assert capsys.readouterr().err == "demo: hello\n"
        assert next(read_events(store))["message"] == "demo: hello"

    def test_other_ranks_write_nothing(self, store, clock, capsys):
        log = EventLog(store, clock)
        log.write("step", step=1)
        log.announce("started", "hello")
        log.flush()
        assert capsys.readouterr().err == ""
        assert names(store) == []


class TestMemory:
    def test_steps_are_remembered_until_a_checkpoint_has_them(self, store, clock):
        log = EventLog(store, clock)
        for step in range(1, 6):
            log.write("step", step=step, loss=1.0 / step)
        log.write("data", step=5)
        assert [fields["step"] for fields in log.remembered(0)] == [1, 2, 3, 4, 5]
        assert [fields["step"] for fields in log.remembered(3)] == [4, 5]
        log.forget(4)
        assert log.remembered(0) == [{"step": 5, "loss": 0.2}]

    def test_a_step_that_is_done_again_counts_once(self, store, clock):
        log = EventLog(store, clock)
        log.write("step", step=1, world=2)
        log.write("step", step=1, world=1)
        assert log.remembered(0) == [{"step": 1, "world": 1}]

    def test_the_memory_of_another_rank_replaces_the_own(self, store, clock):
        one, other = EventLog(store, clock), EventLog(store, clock)
        one.write("step", step=4)
        other.write("step", step=9)
        other.remember(one.remembered(0))
        assert other.remembered(0) == [{"step": 4}]

    def test_a_new_incarnation_stores_under_its_own_name_what_the_old_one_kept_under_its(self, store, clock):
        log = opened(store, 1, clock)
        log.write("a")
        log.open(2)
        log.write("b")
        log.flush()
        keys = [info.key for info in store.list("events/")]
        assert keys == ["events/inc-000001/000000.jsonl", "events/inc-000002/000000.jsonl"]
        assert [event["incarnation"] for event in read_events(store)] == [1, 2]

    def test_a_log_that_is_closed_stores_what_it_had_and_then_only_remembers(self, store, clock):
        log = opened(store, 1, clock)
        log.write("step", step=1)
        log.close()
        log.write("step", step=2)
        log.announce("regrouped", "hello")
        assert not log.writes
        assert [(event["event"], event["step"]) for event in read_events(store)] == [("step", 1)]
        assert log.remembered(0) == [{"step": 1}, {"step": 2}]

    def test_what_is_written_during_a_flush_is_not_lost(self, store, clock):
        log = opened(store, 1, clock)
        write = store.write

        def slow(key, data):
            log.write("b")
            write(key, data)

        log.write("a")
        store.write = slow
        log.flush()
        store.write = write
        log.flush()
        assert names(store) == ["a", "b"]


class TestOutage:
    def test_training_goes_on_and_nothing_is_lost(self, store, clock, capsys):
        log = opened(store, 1, clock)
        log.write("a")
        store.down = True
        clock.advance(11)
        log.flush_if_due()
        message = capsys.readouterr().err
        assert "events are kept in memory for now" in message
        assert "password123" not in message
        log.write("b")
        log.flush_if_due()  # not tried again at once
        assert capsys.readouterr().err == ""
        store.down = False
        clock.advance(11)
        log.flush_if_due()
        assert names(store) == ["a", "b"]
        assert [info.key for info in store.list("events/")] == ["events/inc-000001/000000.jsonl"]

    def test_the_flush_before_a_commit_does_fail(self, store, clock):
        log = opened(store, 1, clock)
        log.write("a")
        store.down = True
        with pytest.raises(UnavailableError):
            log.flush()


class TestRedaction:
    @pytest.mark.parametrize(
        "text",
        [
            "api_key=abcd1234",
            'could not open "s3://user:abcd1234@host/x"',
            'token="abcd1234"',
            "password: abcd1234\\",
            'secret=abcd1234"',
        ],
    )
    def test_credentials_are_masked_and_the_line_stays_json(self, store, clock, text):
        log = opened(store, 1, clock)
        log.write("checkpoint_failed", message=text, nested={"list": [text]})
        log.flush()
        (event,) = read_events(store)
        assert "abcd1234" not in json.dumps(event)
        assert "***" in event["message"]
        assert "***" in event["nested"]["list"][0]

    def test_numbers_are_left_alone_whatever_their_name(self, store, clock):
        log = opened(store, 1, clock)
        log.write("metrics", tokens=123456, token_rate=1234.5)
        log.flush()
        assert next(read_events(store))["tokens"] == 123456

    @given(st.dictionaries(st.sampled_from(["a", "token", "secret_key"]), st.text() | st.integers() | st.none()))
    def test_every_event_can_be_read_back(self, fields):
        lines = []

        class Memory:
            def write(self, key, data):
                lines.append(data)

        log = opened(Memory(), 1, lambda: 1.0)
        log.write("x", **fields)
        log.flush()
        assert json.loads(lines[0])["event"] == "x"


class TestReading:
    def test_by_incarnation_then_in_order(self, store, clock):
        for incarnation in (2, 1, 10):
            log = opened(store, incarnation, clock)
            for step in (1, 2):
                log.write("step", step=step)
                log.flush()
        found = [(event["incarnation"], event["step"]) for event in read_events(store)]
        assert found == [(1, 1), (1, 2), (2, 1), (2, 2), (10, 1), (10, 2)]


def events_of(*lives):
    """(incarnation, resumed after step, last step done) of each."""
    for incarnation, begin, end in lives:
        yield {"event": "started", "incarnation": incarnation, "step": begin}
        for step in range(begin + 1, end + 1):
            yield {"event": "step", "incarnation": incarnation, "step": step}
        yield {"event": "checkpoint", "incarnation": incarnation, "step": end}


@pytest.mark.parametrize(
    ("lives", "expected"),
    [
        ([], []),
        ([(1, 0, 3)], [1, 1, 1]),
        ([(1, 0, 5), (2, 3, 6)], [1, 1, 1, 2, 2, 2]),
        ([(1, 0, 5), (2, 3, 3)], [1, 1, 1]),
        ([(1, 0, 5), (2, 3, 6), (3, 1, 2)], [1, 3]),
        ([(1, 0, 5), (2, 0, 2)], [2, 2]),
        ([(1, 0, 2), (2, 2, 4)], [1, 1, 2, 2]),
    ],
)
def test_the_trajectory_leaves_out_lost_work(lives, expected):
    steps = trajectory(events_of(*lives))
    assert [event["incarnation"] for event in steps] == expected
    assert [event["step"] for event in steps] == list(range(1, len(expected) + 1))
