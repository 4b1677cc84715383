"""Whatever happens to members and coordinators, in whatever order messages arrive, the generations stay sound."""

import hypothesis.strategies as st
from hypothesis import given, settings

from clip_trainer.elastic.coordinator import Coordinator
from clip_trainer.elastic.protocol import decode, encode
from clip_trainer.elastic.run_members import Timing

SLOTS = [("a", 0), ("a", 1), ("b", 0), ("c", 0)]


class Worker:
    """A model of one worker process: what it knows, and the two directions of its connection."""

    def __init__(self, name, node, slot):
        self.name, self.node, self.slot = name, node, slot
        self.generation, self.members = 0, ()
        self.inside = False
        self.changed = False
        self.broken = False
        self.waiting = False
        self.alive, self.dropped = True, False
        self.connection = None
        self.to_coordinator, self.to_worker = [], []

    def say(self, kind, **fields):
        if self.connection is not None:
            self.to_coordinator.append({"type": kind, **fields})

    def ready(self):
        """Leave the generation and wait for the next one."""
        self.inside, self.waiting = False, True
        self.say("wait", generation=self.generation)


class World:
    """Workers, one coordinator at a time, and a network that keeps the order on each connection only."""

    def __init__(self, minimum):
        self.minimum = minimum
        self.now, self.starts, self.connections = 0.0, 0, 0
        self.workers = []
        self.lists = {}
        self.newest = 0
        self.coordinator = self.new_coordinator()

    def new_coordinator(self):
        return Coordinator(Timing(), self.now)

    def living(self):
        return [worker for worker in self.workers if worker.alive and not worker.dropped]

    def start(self, number):
        node, slot = SLOTS[number % len(SLOTS)]
        if any((worker.node, worker.slot) == (node, slot) for worker in self.living()):
            return
        self.starts += 1
        worker = Worker(f"{node}/{slot}#{self.starts}", node, slot)
        self.workers.append(worker)
        self.connect(worker)
        worker.ready()

    def connect(self, worker):
        self.connections += 1
        worker.connection = self.connections
        self.coordinator.connected(self.connections, "10.0.0.1")
        bounds = {"min_members": self.minimum, "max_members": len(SLOTS), "last_call": 1.0}
        place = {"run": "run", "member": worker.name, "node": worker.node, "slot": worker.slot}
        worker.say("hello", generation=worker.generation, members=list(worker.members), **place, **bounds)
        if worker.waiting:
            worker.say("wait", generation=worker.generation)

    def disconnect(self, worker):
        """The connection ends; what was under way in either direction is lost."""
        if worker.connection is None:
            return
        connection, worker.connection = worker.connection, None
        worker.to_coordinator, worker.to_worker = [], []
        self.coordinator.disconnected(connection, self.now)
        self.collect()

    def kill(self, worker):
        worker.alive = False
        self.disconnect(worker)

    def leave(self, worker):
        worker.say("leave")
        while worker.to_coordinator:
            self.deliver_up(worker)
        self.kill(worker)

    def restart(self):
        for worker in self.workers:
            worker.connection = None
            worker.to_coordinator, worker.to_worker = [], []
        self.coordinator = self.new_coordinator()

    def deliver_up(self, worker):
        if worker.to_coordinator:
            message = decode(encode(worker.to_coordinator.pop(0)))
            self.coordinator.received(worker.connection, message, self.now)
            self.collect()

    def collect(self):
        by_connection = {worker.connection: worker for worker in self.workers if worker.connection is not None}
        for connection, message in self.coordinator.take():
            worker = by_connection.get(connection)
            if message is not None and message["type"] == "formed":
                self.check(message)
            if worker is not None and message is not None:
                worker.to_worker.append(decode(encode(message)))

    def check(self, formed):
        """No number stands for two lists, and ranks are places in the list."""
        members = tuple(formed["members"])
        assert self.lists.setdefault(formed["generation"], members) == members
        assert len(set(members)) == len(members) >= self.minimum
        assert 0 <= formed["rank"] < len(members)

    def deliver_down(self, worker):
        if not worker.to_worker:
            return
        message = worker.to_worker.pop(0)
        kind = message["type"]
        if kind == "lead":
            worker.say("open", generation=message["generation"], attempt=message["attempt"], port=4000)
        elif kind == "formed":
            self.enter(worker, message)
        elif kind == "changed" and message["generation"] == worker.generation:
            worker.changed = True
            worker.broken = worker.broken or message["broken"]
        elif kind == "dropped":
            worker.dropped = True
            self.disconnect(worker)

    def enter(self, worker, message):
        number, members = message["generation"], tuple(message["members"])
        assert worker.waiting
        assert number > worker.generation
        assert members[message["rank"]] == worker.name
        before = [name for name in worker.members if name in members]
        peers = {other.name: other for other in self.workers}
        # Those who come out of the same generation keep their order.
        same = [name for name in before if peers[name].generation in (worker.generation, number)]
        if worker.generation and worker.generation + 1 == number:
            assert [name for name in members if name in same] == same
        worker.generation, worker.members = number, members
        worker.inside, worker.waiting, worker.changed, worker.broken = True, False, False, False

    def step(self, worker):
        """The next step boundary, or a collective that fails because a peer is not in the generation any more."""
        if not worker.inside:
            return
        peers = [other for other in self.workers if other.name in worker.members]
        lost = any(not other.alive or other.dropped or other.generation > worker.generation for other in peers)
        left = any(other.waiting and other.generation == worker.generation for other in peers)
        if worker.changed or lost or left:
            worker.ready()

    def settle(self):
        """Deliver everything that is under way, in rounds."""
        while any(worker.to_coordinator or worker.to_worker for worker in self.workers):
            for worker in self.workers:
                self.deliver_up(worker)
                self.deliver_down(worker)

    def pass_time(self, seconds):
        """Time is long compared with the network; whoever lost the connection has found it again within it."""
        for _ in range(round(seconds * 2)):
            for worker in self.living():
                if worker.connection is None:
                    self.connect(worker)
                worker.say("beat")
            self.settle()
            self.now += 0.5
            self.coordinator.tick(self.now)
            self.collect()


NUMBER = st.integers(0, 7)
KINDS = ("start", "up", "down", "step", "kill", "leave", "disconnect", "time", "restart")
# Small steps are drawn more often than disasters.
EVENT = st.tuples(st.sampled_from(["start", "up", "up", "down", "down", "step", "step", "time", *KINDS]), NUMBER)


def happen(world, kind, number):
    workers = world.living()
    if kind == "start":
        world.start(number)
    elif kind == "restart":
        world.restart()
    elif kind == "time":
        world.pass_time(0.5 * (1 + number % 4))
    elif workers:
        worker = workers[number % len(workers)]
        actions = {"up": world.deliver_up, "down": world.deliver_down, "disconnect": world.disconnect}
        {**actions, "step": world.step, "kill": world.kill, "leave": world.leave}[kind](worker)


@settings(max_examples=400)
@given(st.integers(1, 3), st.lists(EVENT, max_size=80))
def test_generations_stay_sound_and_all_end_up_together(minimum, events):
    world = World(minimum)
    for kind, number in events:
        happen(world, kind, number)
    for _ in range(60):
        world.pass_time(1.0)
        for worker in world.living():
            world.step(worker)
    living = world.living()
    if len(living) < minimum:
        assert not any(worker.inside and worker.broken for worker in living)
        return
    assert len({worker.generation for worker in living}) == 1
    assert {worker.name for worker in living} == set(living[0].members)
    assert all(worker.inside and not worker.changed for worker in living)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 7), st.sampled_from(["up", "down", "restart"])), max_size=40))
def test_a_restarted_coordinator_regroups_nobody(events):
    world = World(2)
    for number in range(4):
        world.start(number)
    world.pass_time(6.0)
    assert all(worker.inside for worker in world.workers)
    before = {worker.name: worker.generation for worker in world.workers}
    world.restart()
    for number, kind in events:
        happen(world, kind, number)
    world.pass_time(30.0)
    assert {worker.name: worker.generation for worker in world.workers} == before
    assert not any(worker.changed for worker in world.workers)


@settings(max_examples=100)
@given(st.permutations(range(4)), st.integers(0, 3), NUMBER)
def test_survivors_keep_their_order_whoever_is_killed(order, victim, newcomer):
    world = World(1)
    for number in order:
        world.start(number)
    world.pass_time(6.0)
    before = world.workers[0].members
    killed = world.workers[victim]
    world.kill(killed)
    world.start(newcomer)
    for _ in range(10):
        world.pass_time(0.5)
        for worker in world.living():
            world.step(worker)
    survivors = [name for name in before if name != killed.name]
    after = world.living()[0].members
    assert list(after[:3]) == survivors
    assert set(after) == {worker.name for worker in world.living()}
