"""The coordinator's rules, one by one, with messages passed by hand and time as a number."""

import pytest

from clip_trainer.elastic.coordinator import MAX_RUNS, Coordinator
from clip_trainer.elastic.protocol import ProtocolError, decode, encode
from clip_trainer.elastic.run_members import Timing


class Room:
    """A coordinator, and what it has said to each connection."""

    def __init__(self, minimum=1, maximum=4, last_call=0.0, **timing):
        self.timing = Timing(**{"settle": 0.0, **timing})
        self.now = 1000.0
        self.minimum, self.maximum, self.last_call = minimum, maximum, last_call
        self.hung_up = set()
        self.heard = {}
        self._connections = 0
        self.restart()

    def restart(self):
        """Another coordinator takes over, and knows nothing."""
        self.coordinator = Coordinator(self.timing, self.now)

    def connect(self, host="10.0.0.1"):
        self._connections += 1
        self.coordinator.connected(self._connections, host)
        self.heard[self._connections] = []
        return self._connections

    def join(self, name, generation=0, members=(), *, run="run", host=None, node=None):
        """A member connects and says hello."""
        node = node or name.partition("/")[0]
        connection = self.connect(host or f"10.0.0.{1 + ord(node[-1]) % 100}")
        slot = int(name.partition("/")[2].partition("#")[0] or 0)
        bounds = {"min_members": self.minimum, "max_members": self.maximum, "last_call": self.last_call}
        place = {"run": run, "member": name, "node": node, "slot": slot}
        self.say(connection, "hello", generation=generation, members=list(members), **place, **bounds)
        return connection

    def say(self, connection, kind, **fields):
        self.coordinator.received(connection, decode(encode({"type": kind, **fields})), self.now)
        self.collect()

    def cut(self, connection):
        self.coordinator.disconnected(connection, self.now)
        self.collect()

    def sleep(self, seconds, beating=()):
        """Let time pass in ticks of half a second; `beating` connections beat all the while."""
        for _ in range(round(seconds * 2)):
            self.now += 0.5
            for connection in beating:
                self.say(connection, "beat")
            self.coordinator.tick(self.now)
            self.collect()

    def collect(self):
        for connection, message in self.coordinator.take():
            if message is None:
                self.hung_up.add(connection)
            else:
                self.heard[connection].append(decode(encode(message)))

    def last(self, connection, kind):
        """The newest message of this type to that connection; None if there is none."""
        return next((message for message in reversed(self.heard[connection]) if message["type"] == kind), None)

    def all(self, connection, kind):
        return [message for message in self.heard[connection] if message["type"] == kind]

    def open(self, connection, port=4000):
        """Answer the newest request to lead."""
        lead = self.last(connection, "lead")
        self.say(connection, "open", generation=lead["generation"], attempt=lead["attempt"], port=port)

    def form(self, *names):
        """A first generation of these members; returns their connections."""
        wanted = self.maximum, self.last_call
        self.maximum, self.last_call = len(names), 1000.0  # none of them starts alone
        connections = [self.join(name) for name in names]
        self.maximum, self.last_call = wanted
        for connection in connections:
            self.say(connection, "wait", generation=0)
        if len(names) > 1:
            self.open(connections[0])
        assert [self.last(connection, "formed")["rank"] for connection in connections] == list(range(len(names)))
        return connections


def test_a_member_alone_forms_a_generation_without_a_store():
    room = Room()
    [only] = room.form("a/0#0")
    assert room.last(only, "formed") == {
        "type": "formed",
        "generation": 1,
        "rank": 0,
        "members": ["a/0#0"],
        "host": "10.0.0.98",
        "port": 0,
    }
    assert room.last(only, "lead") is None


def test_the_leaders_address_is_the_one_the_coordinator_sees():
    room = Room(minimum=2)
    first, second = room.join("a/0#0", host="172.16.0.9"), room.join("b/0#0", host="172.16.0.8")
    room.say(second, "wait", generation=0)
    room.say(first, "wait", generation=0)
    assert room.last(second, "formed") is None
    room.open(first, port=4321)
    for rank, connection in enumerate((first, second)):
        formed = room.last(connection, "formed")
        assert (formed["rank"], formed["host"], formed["port"]) == (rank, "172.16.0.9", 4321)
        assert formed["members"] == ["a/0#0", "b/0#0"]


def test_newcomers_are_ranked_by_node_and_slot_with_numbers_as_numbers():
    room = Room(minimum=4)
    names = ["worker-10/0#0", "worker-2/1#0", "worker-2/0#0", "worker-1/0#0"]
    connections = {name: room.join(name, host="10.0.0.1") for name in names}
    for connection in connections.values():
        room.say(connection, "wait", generation=0)
    leader = connections["worker-1/0#0"]
    room.open(leader)
    assert room.last(leader, "formed")["members"] == ["worker-1/0#0", "worker-2/0#0", "worker-2/1#0", "worker-10/0#0"]


def test_nothing_forms_below_the_minimum():
    room = Room(minimum=3)
    connections = [room.join("a/0#0"), room.join("b/0#0")]
    for connection in connections:
        room.say(connection, "wait", generation=0)
    room.sleep(100, connections)
    assert all(room.last(connection, "lead") is None for connection in connections)


def test_a_first_generation_waits_a_moment_for_more_than_the_minimum():
    room = Room(minimum=1, maximum=3, last_call=1.0)
    first = room.join("a/0#0")
    room.say(first, "wait", generation=0)
    room.sleep(0.5, [first])
    second = room.join("b/0#0")
    room.say(second, "wait", generation=0)
    assert room.last(first, "formed") is None
    room.sleep(0.5, [first, second])
    room.open(first)
    assert room.last(second, "formed")["members"] == ["a/0#0", "b/0#0"]


def test_a_first_generation_does_not_wait_once_all_are_there():
    room = Room(minimum=1, maximum=2, last_call=100.0)
    first, second = room.join("a/0#0"), room.join("b/0#0")
    room.say(first, "wait", generation=0)
    assert room.last(first, "lead") is None
    room.say(second, "wait", generation=0)
    assert room.last(first, "lead") is not None


def test_the_last_call_starts_anew_when_the_minimum_is_missed_again():
    room = Room(minimum=2, maximum=3, last_call=1.0)
    first, second = room.join("a/0#0"), room.join("b/0#0")
    room.say(first, "wait", generation=0)
    room.say(second, "wait", generation=0)
    room.sleep(0.5, [first])
    room.cut(second)
    third = room.join("c/0#0")
    room.sleep(5, [first, third])
    room.say(third, "wait", generation=0)
    assert room.last(first, "lead") is None
    room.sleep(1, [first, third])
    assert room.last(first, "lead") is not None


def test_whoever_has_not_said_wait_is_not_waited_for():
    room = Room(minimum=1)
    preparing = room.join("b/0#0")
    [only] = room.form("a/0#0")
    assert room.last(preparing, "formed") is None
    assert room.last(only, "changed") is None


def test_a_newcomer_hears_whether_a_generation_is_running():
    room = Room()
    first = room.join("a/0#0")
    assert room.last(first, "welcome")["running"] is False
    room.say(first, "wait", generation=0)
    assert room.last(first, "formed")
    assert room.last(room.join("b/0#0"), "welcome")["running"] is True


def test_nothing_is_running_once_everybody_is_gone():
    room = Room()
    [only] = room.form("a/0#0")
    room.cut(only)
    assert room.last(room.join("b/0#0"), "welcome")["running"] is False


def test_a_newcomer_ends_the_generation_only_once_it_is_ready():
    room = Room()
    [first] = room.form("a/0#0")
    second = room.join("b/0#0")
    assert room.last(first, "changed") is None
    room.say(second, "wait", generation=0)
    assert room.last(first, "changed") == {"type": "changed", "generation": 1, "broken": False}
    room.say(first, "wait", generation=1)
    room.open(first)
    assert room.last(second, "formed")["members"] == ["a/0#0", "b/0#0"]
    assert room.last(second, "formed")["generation"] == 2


def test_members_hear_once_that_newcomers_wait():
    room = Room()
    [first] = room.form("a/0#0")
    for name in ("b/0#0", "c/0#0"):
        room.say(room.join(name), "wait", generation=0)
    assert len(room.all(first, "changed")) == 1


def test_the_loss_of_a_member_breaks_the_generation_at_once():
    room = Room()
    first, second, third = room.form("a/0#0", "b/0#0", "c/0#0")
    room.cut(second)
    for connection in (first, third):
        assert room.last(connection, "changed") == {"type": "changed", "generation": 1, "broken": True}
    room.say(third, "wait", generation=1)
    room.say(first, "wait", generation=1)
    room.open(first)
    assert room.last(third, "formed")["members"] == ["a/0#0", "c/0#0"]
    assert room.last(third, "formed")["rank"] == 1


def test_survivors_do_not_wait_for_a_last_call():
    room = Room(last_call=100.0, maximum=3)
    first, second, third = room.form("a/0#0", "b/0#0", "c/0#0")
    room.cut(third)
    room.say(first, "wait", generation=1)
    room.say(second, "wait", generation=1)
    assert room.last(first, "lead")["generation"] == 2


def test_a_newcomer_does_not_outrank_a_survivor():
    room = Room()
    first, second = room.form("b/0#0", "c/0#0")
    room.cut(first)
    newcomer = room.join("a/0#0")
    room.say(newcomer, "wait", generation=0)
    room.say(second, "wait", generation=1)
    room.open(second)
    assert room.last(newcomer, "formed")["members"] == ["c/0#0", "a/0#0"]


def test_a_member_that_leaves_is_not_waited_for():
    room = Room()
    first, second = room.form("a/0#0", "b/0#0")
    room.say(second, "leave")
    assert room.last(first, "changed")["broken"] is True
    room.say(first, "wait", generation=1)
    assert room.last(first, "formed")["members"] == ["a/0#0"]


def test_the_loss_of_the_leader_before_its_store_listens_forms_again():
    room = Room()
    first, second, third = room.form("a/0#0", "b/0#0", "c/0#0")
    room.cut(third)
    room.say(first, "wait", generation=1)
    room.say(second, "wait", generation=1)
    assert room.last(first, "lead")
    room.cut(first)
    assert room.last(second, "formed")["members"] == ["b/0#0"]


def test_the_loss_of_another_member_while_forming_forms_again_and_ignores_the_first_store():
    room = Room()
    first, second, third = room.form("a/0#0", "b/0#0", "c/0#0")
    for connection in (first, second, third):
        room.say(connection, "wait", generation=1)
    old = room.last(first, "lead")
    room.cut(third)
    new = room.last(first, "lead")
    assert new["attempt"] > old["attempt"]
    room.say(first, "open", generation=old["generation"], attempt=old["attempt"], port=1111)
    assert room.last(second, "formed")["generation"] == 1
    room.open(first, port=2222)
    assert room.last(second, "formed")["port"] == 2222


def test_a_leader_that_opens_no_store_is_dropped():
    room = Room(patience=10.0)
    first, second = room.form("a/0#0", "b/0#0")
    room.say(first, "wait", generation=1)
    room.say(second, "wait", generation=1)
    room.sleep(11, [first, second])
    assert "store" in room.last(first, "dropped")["reason"]
    assert room.last(second, "formed")["members"] == ["b/0#0"]


def test_somebody_elses_store_is_ignored():
    room = Room(minimum=2)
    first, second = room.join("a/0#0"), room.join("b/0#0")
    room.say(first, "wait", generation=0)
    room.say(second, "wait", generation=0)
    lead = room.last(first, "lead")
    room.say(second, "open", generation=lead["generation"], attempt=lead["attempt"], port=1)
    assert room.last(first, "formed") is None


def test_a_newcomer_during_forming_joins_the_generation_after():
    room = Room()
    first, second = room.form("a/0#0", "b/0#0")
    room.say(first, "wait", generation=1)
    room.say(second, "wait", generation=1)
    newcomer = room.join("c/0#0")
    room.say(newcomer, "wait", generation=0)
    room.open(first)
    assert room.last(second, "formed")["members"] == ["a/0#0", "b/0#0"]
    assert room.last(first, "changed") == {"type": "changed", "generation": 2, "broken": False}


def test_members_that_do_not_come_are_dropped_when_patience_ends():
    room = Room(patience=10.0)
    first, second = room.form("a/0#0", "b/0#0")
    room.say(first, "wait", generation=1)
    room.sleep(10, [first, second])
    assert room.last(first, "formed")["generation"] == 1
    room.sleep(1, [first, second])
    assert "in time" in room.last(second, "dropped")["reason"]
    assert room.last(first, "formed")["members"] == ["a/0#0"]


def test_patience_does_not_run_while_only_newcomers_wait():
    room = Room(patience=10.0)
    [first] = room.form("a/0#0")
    newcomer = room.join("b/0#0")
    room.say(newcomer, "wait", generation=0)
    room.sleep(100, [first, newcomer])
    assert room.last(first, "dropped") is None
    assert room.last(newcomer, "formed") is None


def test_members_stuck_inside_are_told_to_break_out_half_way():
    room = Room(patience=10.0)
    first, second = room.form("a/0#0", "b/0#0")
    room.say(first, "wait", generation=1)
    assert room.last(second, "changed")["broken"] is False
    room.sleep(6, [first, second])
    assert room.last(second, "changed")["broken"] is True


def test_nobody_is_dropped_for_less_than_the_minimum():
    room = Room(minimum=2, patience=10.0)
    first, second = room.form("a/0#0", "b/0#0")
    room.say(first, "wait", generation=1)
    room.sleep(60, [first, second])
    assert room.last(second, "dropped") is None


def test_a_silent_member_is_lost_and_hung_up_on():
    room = Room(beat=10.0)
    first, second = room.form("a/0#0", "b/0#0")
    room.sleep(9, [first])
    assert room.last(first, "changed") is None
    room.sleep(3, [first])
    assert room.last(first, "changed")["broken"] is True
    assert room.hung_up == {second}


def test_silence_does_not_count_while_the_coordinator_itself_slept():
    room = Room(beat=10.0)
    first, second = room.form("a/0#0", "b/0#0")
    room.sleep(3, [first, second])
    room.now += 3600
    room.coordinator.tick(room.now)
    room.collect()
    assert room.hung_up == set()
    room.sleep(3, [first, second])
    assert room.last(first, "changed") is None


@pytest.mark.parametrize("seconds", [6, 3600])
def test_nobody_is_late_who_could_not_be_heard_while_the_coordinator_slept(seconds):
    """On waking it reads one message after the other, and none of them may be the end of those behind it."""
    room = Room(patience=10.0)
    first, second, third = room.form("a/0#0", "b/0#0", "c/0#0")
    room.say(first, "wait", generation=1)
    room.now += seconds
    room.say(second, "wait", generation=1)
    room.coordinator.tick(room.now)
    room.collect()
    assert room.last(third, "changed")["broken"] is False
    room.say(third, "wait", generation=1)
    assert all(room.last(connection, "dropped") is None for connection in (first, second, third))

    room.now += seconds
    newcomer = room.join("d/0#0")
    room.say(newcomer, "wait", generation=0)
    room.open(first)
    assert room.last(third, "formed")["members"] == ["a/0#0", "b/0#0", "c/0#0"]
    assert room.last(third, "formed")["generation"] == 2


def test_losing_and_finding_the_connection_joins_again():
    room = Room()
    first, second = room.form("a/0#0", "b/0#0")
    room.cut(second)
    again = room.join("b/0#0", 1, ["a/0#0", "b/0#0"])
    assert room.last(again, "changed") == {"type": "changed", "generation": 1, "broken": True}
    room.say(first, "wait", generation=1)
    assert room.last(first, "lead")["generation"] == 1  # b still has its state and is on its way
    room.say(again, "wait", generation=1)
    room.open(first)
    assert room.last(again, "formed")["members"] == ["a/0#0", "b/0#0"]


def test_a_connection_made_before_the_old_one_ended_replaces_it_quietly():
    room = Room()
    first, second = room.form("a/0#0", "b/0#0")
    room.join("b/0#0", 1, ["a/0#0", "b/0#0"])
    room.cut(second)
    assert room.last(first, "changed") is None


def test_whoever_missed_a_generation_hears_it_and_rejoins_with_its_state():
    room = Room()
    first, second, third = room.form("a/0#0", "b/0#0", "c/0#0")
    room.cut(first)
    room.say(second, "wait", generation=1)
    room.say(third, "wait", generation=1)
    room.open(second)
    late = room.join("a/0#0", 1, ["a/0#0", "b/0#0", "c/0#0"])
    assert room.last(late, "changed") == {"type": "changed", "generation": 1, "broken": True}
    room.say(late, "wait", generation=1)
    room.say(second, "wait", generation=2)
    room.say(third, "wait", generation=2)
    room.open(second)
    assert room.last(late, "formed")["members"] == ["b/0#0", "c/0#0", "a/0#0"]


def test_a_formation_that_one_member_did_not_hear_of_is_broken():
    room = Room()
    first, second = room.form("a/0#0", "b/0#0")
    room.say(first, "wait", generation=1)
    room.say(second, "wait", generation=1)
    room.open(first)
    room.join("b/0#0", 1, ["a/0#0", "b/0#0"])  # the connection broke before it could read `formed`
    assert room.last(first, "changed") == {"type": "changed", "generation": 2, "broken": True}


def test_a_new_process_in_a_slot_means_the_old_one_is_dead():
    room = Room()
    first, second = room.form("a/0#0", "b/0#0")
    room.join("b/0#1")
    assert room.last(first, "changed")["broken"] is True
    assert room.last(second, "dropped")


def test_a_new_process_of_the_same_name_means_the_old_one_is_dead():
    room = Room()
    first, second = room.form("a/0#0", "b/0#0")
    newcomer = room.join("b/0#0")
    assert room.last(first, "changed")["broken"] is True
    assert room.last(second, "dropped")
    room.cut(second)
    room.say(first, "wait", generation=1)
    assert room.last(first, "formed")["members"] == ["a/0#0"]
    room.say(newcomer, "wait", generation=0)
    assert room.last(first, "changed")["generation"] == 2


def test_what_a_dropped_member_still_says_is_ignored():
    room = Room()
    first, second = room.form("a/0#0", "b/0#0")
    room.join("b/0#1")
    room.say(second, "wait", generation=1)
    room.say(first, "wait", generation=1)
    assert room.last(first, "formed")["members"] == ["a/0#0"]


def test_a_wait_that_crossed_with_the_formation_is_ignored():
    room = Room()
    first, second = room.form("a/0#0", "b/0#0")
    room.say(second, "wait", generation=0)
    assert room.last(first, "changed") is None


def test_a_new_coordinator_learns_the_generation_and_disturbs_nobody():
    room = Room(reconnect=5.0)
    names = ["a/0#0", "b/0#0"]
    room.form(*names)
    room.restart()
    again = [room.join(name, 1, names) for name in names]
    room.sleep(60, again)
    assert all(room.last(connection, "changed") is None for connection in again)
    assert room.last(room.join("c/0#0"), "welcome")["running"] is True


def test_a_new_coordinator_waits_for_the_rest_of_the_list_before_it_misses_anybody():
    room = Room(reconnect=5.0)
    room.form("a/0#0", "b/0#0")
    room.restart()
    first = room.join("a/0#0", 1, ["a/0#0", "b/0#0"])
    room.sleep(4, [first])
    assert room.last(first, "changed") is None
    room.sleep(1, [first])
    assert room.last(first, "changed") == {"type": "changed", "generation": 1, "broken": True}
    room.say(first, "wait", generation=1)
    assert room.last(first, "formed")["members"] == ["a/0#0"]


def test_a_coordinator_that_was_out_of_reach_disturbs_nobody():
    """It missed all of them; they had each other all the time."""
    room = Room(reconnect=5.0)
    names = ["a/0#0", "b/0#0", "c/0#0"]
    for connection in room.form(*names):
        room.cut(connection)
    again = [room.join(name, 1, names) for name in names]
    room.sleep(60, again)
    assert all(room.last(connection, "changed") is None for connection in again)
    newcomer = room.join("d/0#0")
    room.say(newcomer, "wait", generation=0)
    assert [room.last(connection, "changed")["broken"] for connection in again] == [False] * 3


def test_a_coordinator_that_was_out_of_reach_misses_whoever_does_not_come_back():
    room = Room(reconnect=5.0)
    names = ["a/0#0", "b/0#0"]
    for connection in room.form(*names):
        room.cut(connection)
    first = room.join("a/0#0", 1, names)
    room.sleep(4, [first])
    assert room.last(first, "changed") is None
    room.sleep(1, [first])
    assert room.last(first, "changed") == {"type": "changed", "generation": 1, "broken": True}


def test_a_new_coordinator_awaits_the_unseen_before_it_forms():
    room = Room(reconnect=5.0)
    names = ["a/0#0", "b/0#0"]
    room.form(*names)
    room.restart()
    first = room.join("a/0#0", 1, names)
    room.say(first, "wait", generation=1)
    assert room.last(first, "formed") is None
    second = room.join("b/0#0", 1, names)
    room.say(second, "wait", generation=1)
    room.open(first)
    assert room.last(second, "formed")["rank"] == 1


def test_numbers_grow_over_a_restart_even_if_the_last_formation_was_not_heard_by_all():
    room = Room(reconnect=5.0)
    names = ["a/0#0", "b/0#0"]
    room.form(*names)
    room.restart()
    first = room.join("a/0#0", 1, names)  # b was told of generation 2 by the old coordinator, a was not
    room.say(first, "wait", generation=1)
    room.sleep(5, [first])
    assert room.last(first, "formed")["generation"] > 2


def test_the_highest_generation_heard_of_counts():
    room = Room()
    room.restart()
    old = room.join("a/0#0", 4, ["a/0#0", "b/0#0"])
    new = room.join("b/0#0", 5, ["a/0#0", "b/0#0"])
    assert room.last(old, "changed") == {"type": "changed", "generation": 4, "broken": True}
    assert room.last(new, "changed") == {"type": "changed", "generation": 5, "broken": True}
    room.say(old, "wait", generation=4)
    room.say(new, "wait", generation=5)
    room.open(new)
    assert room.last(old, "formed")["members"] == ["b/0#0", "a/0#0"]
    assert room.last(old, "formed")["generation"] > 6


def test_a_new_coordinator_forms_no_first_generation_before_it_has_settled():
    room = Room(settle=3.0)
    newcomer = room.join("z/0#0")
    room.say(newcomer, "wait", generation=0)
    room.sleep(2, [newcomer])
    assert room.last(newcomer, "formed") is None
    old = room.join("a/0#0", 7, ["a/0#0"])
    assert room.last(old, "changed") == {"type": "changed", "generation": 7, "broken": False}
    room.say(old, "wait", generation=7)
    room.open(old)
    assert room.last(newcomer, "formed")["members"] == ["a/0#0", "z/0#0"]


def test_a_fresh_run_starts_when_the_coordinator_has_settled():
    room = Room(settle=3.0)
    newcomer = room.join("z/0#0")
    room.say(newcomer, "wait", generation=0)
    room.sleep(3, [newcomer])
    assert room.last(newcomer, "formed")["generation"] == 1


def test_two_generations_of_one_number_are_told_apart():
    room = Room()
    room.restart()
    first = room.join("a/0#0", 3, ["a/0#0"])
    second = room.join("b/0#0", 3, ["b/0#0"])
    assert room.last(first, "changed") is None
    assert room.last(second, "changed")["broken"] is True


def test_the_first_to_close_decides_and_everybody_hears():
    room = Room()
    first, second = room.form("a/0#0", "b/0#0")
    observer = room.connect()
    room.say(observer, "observe", run="run")
    room.say(second, "close", code=66)
    room.say(first, "close", code=0)
    for connection in (first, second, observer):
        assert [message["code"] for message in room.all(connection, "closed")] == [66]


def test_an_observer_may_close():
    room = Room()
    [only] = room.form("a/0#0")
    observer = room.connect()
    room.say(observer, "observe", run="run")
    room.say(observer, "close", code=78)
    assert room.last(only, "closed")["code"] == 78


def test_whoever_comes_after_the_end_hears_it():
    room = Room()
    [only] = room.form("a/0#0")
    room.say(only, "close", code=0)
    late = room.join("b/0#0")
    assert room.last(late, "closed") == {"type": "closed", "code": 0}
    assert room.last(late, "welcome") is None
    observer = room.connect()
    room.say(observer, "observe", run="run")
    assert room.last(observer, "closed")["code"] == 0


def test_a_closed_run_forms_nothing():
    room = Room()
    first, second = room.form("a/0#0", "b/0#0")
    room.say(first, "close", code=0)
    room.cut(first)
    room.say(second, "wait", generation=1)
    room.sleep(30)
    assert room.last(second, "formed")["generation"] == 1


def test_whoever_goes_after_the_end_disturbs_nobody():
    room = Room()
    first, second = room.form("a/0#0", "b/0#0")
    room.say(first, "close", code=0)
    room.cut(first)
    assert room.last(second, "changed") is None


def test_runs_do_not_notice_each_other():
    room = Room()
    first = room.join("a/0#0", run="run-1")
    second = room.join("a/0#0", run="run-2")
    room.say(first, "wait", generation=0)
    room.say(second, "wait", generation=0)
    assert room.last(first, "formed")["members"] == room.last(second, "formed")["members"] == ["a/0#0"]
    room.say(first, "close", code=1)
    room.cut(first)
    assert room.last(second, "closed") is None
    assert room.last(second, "changed") is None


def test_observers_are_no_members():
    room = Room(minimum=2)
    observer = room.connect()
    room.say(observer, "observe", run="run")
    first = room.join("a/0#0")
    room.say(first, "wait", generation=0)
    room.say(observer, "wait", generation=0)
    room.cut(observer)
    assert room.last(first, "lead") is None


def test_the_first_word_must_be_hello():
    room = Room()
    with pytest.raises(ProtocolError, match="before hello"):
        room.say(room.connect(), "wait", generation=0)


def test_an_unknown_connection_is_ignored():
    room = Room()
    room.say(99, "beat")
    room.cut(99)


def test_old_runs_are_forgotten_when_there_are_too_many():
    room = Room()
    [used] = room.form("a/0#0")
    for number in range(MAX_RUNS + 5):
        connection = room.connect()
        room.say(connection, "observe", run=f"old-{number}")
        room.cut(connection)
    assert len(room.coordinator._runs) <= MAX_RUNS
    room.say(used, "close", code=0)
    assert room.last(used, "closed")
