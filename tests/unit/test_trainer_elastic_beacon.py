import os
import struct
import threading

import pytest

from clip_trainer.elastic import beacon as beacon_module
from clip_trainer.elastic.beacon import (
    ENV_BEACON,
    PHASES,
    Beacon,
    FileBeacon,
    beacon_from_environment,
    current,
    read_beacon,
)


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "beacon"


@pytest.fixture
def nobody_yet(monkeypatch):
    monkeypatch.setattr(beacon_module, "_current", Beacon())


def test_new_beacon_says_start(file, clock):
    FileBeacon(file, clock)
    found = read_beacon(file)
    assert (found.phase, found.doing, found.step, found.rank, found.generation) == ("start", "start", -1, -1, 0)
    assert (found.since, found.changed, found.heartbeat, found.longest) == (100.0, 100.0, 100.0, 0.0)
    assert not found.waiting


@pytest.mark.parametrize("phase", PHASES)
def test_every_phase_is_read_as_written(file, clock, phase):
    beacon = FileBeacon(file, clock)
    clock.now = 103.5
    beacon.phase(phase, 7)
    found = read_beacon(file)
    assert (found.phase, found.step, found.since, found.changed) == (phase, 7, 103.5, 103.5)


def test_step_stays_until_another_is_told(file, clock):
    beacon = FileBeacon(file, clock)
    beacon.phase("compute", 41)
    beacon.phase("save")
    assert read_beacon(file).step == 41


def test_steps_of_this_process_are_counted_when_they_are_done(file, clock):
    beacon = FileBeacon(file, clock)
    counts = []
    for step in range(80, 84):
        for phase in ("data", "compute"):
            beacon.phase(phase, step)
            counts.append(read_beacon(file).steps)
            clock.now += 1
            with beacon.waiting_for_peers():
                clock.now += 1
    beacon.phase("save", 84)
    assert counts == [0, 0, 1, 1, 2, 2, 3, 3]
    assert read_beacon(file).steps == 4


def test_place_in_the_group_names_the_rank(file, clock):
    beacon = FileBeacon(file, clock)
    beacon.entered(3, 1)
    found = read_beacon(file)
    assert (found.generation, found.rank) == (3, 1)


def test_waiting_for_peers_is_seen_and_ends_as_a_sign_of_life(file, clock):
    beacon = FileBeacon(file, clock)
    beacon.phase("compute", 1)
    clock.now = 102.0
    with beacon.waiting_for_peers():
        found = read_beacon(file)
        assert (found.waiting, found.doing, found.phase, found.changed) == (True, "collective", "compute", 102.0)
        clock.now = 150.0
    found = read_beacon(file)
    assert (found.waiting, found.changed, found.since) == (False, 150.0, 100.0)


def test_nested_waits_are_one(file, clock):
    beacon = FileBeacon(file, clock)
    with beacon.waiting_for_peers():
        with beacon.waiting_for_peers():
            assert read_beacon(file).waiting
        assert read_beacon(file).waiting
    assert not read_beacon(file).waiting


def test_wait_that_fails_is_over(file, clock):
    beacon = FileBeacon(file, clock)
    with pytest.raises(RuntimeError), beacon.waiting_for_peers():
        raise RuntimeError("lost a peer")
    assert not read_beacon(file).waiting


def test_longest_stretch_of_computing_leaves_waits_and_data_out(file, clock):
    beacon = FileBeacon(file, clock)
    beacon.phase("data", 0)
    clock.now += 50
    beacon.phase("compute", 0)
    clock.now += 3
    with beacon.waiting_for_peers():
        clock.now += 70
    clock.now += 2
    beacon.phase("data")
    assert read_beacon(file).longest == 3.0


def test_many_short_stretches_do_not_hide_the_long_one_of_the_same_step(file, clock):
    beacon = FileBeacon(file, clock)
    beacon.phase("compute", 0)
    clock.now += 60
    for _ in range(100):
        with beacon.waiting_for_peers():
            clock.now += 1
        clock.now += 0.1
    assert read_beacon(file).longest == 60.0


def test_longest_stretch_fades(file, clock):
    beacon = FileBeacon(file, clock)
    beacon.phase("compute", 0)
    clock.now += 100  # compiling
    for step in range(1, 60):
        beacon.phase("compute", step)
        clock.now += 1
    assert 0.8 < read_beacon(file).longest < 2.0


def test_heartbeat_is_apart_from_the_phase(file, clock):
    beacon = FileBeacon(file, clock)
    clock.now = 130.0
    beacon.beat()
    found = read_beacon(file)
    assert (found.heartbeat, found.changed) == (130.0, 100.0)


def test_thread_stamps_until_closed(file):
    beats = []
    stamped = threading.Event()

    def tick():
        beats.append(None)
        if len(beats) > 5:
            stamped.set()
        return float(len(beats))

    beacon = FileBeacon(file, tick)
    beacon.start_heartbeat(0.001)
    assert stamped.wait(60)
    beacon.close()
    for thread in threading.enumerate():
        if thread.name == "beacon":
            thread.join(60)
            assert not thread.is_alive()


def test_no_beacon_reads_as_none(tmp_path):
    assert read_beacon(tmp_path / "none") is None
    (tmp_path / "empty").write_bytes(b"")
    assert read_beacon(tmp_path / "empty") is None
    (tmp_path / "other").write_bytes(b"x" * 200)
    assert read_beacon(tmp_path / "other") is None


@pytest.mark.parametrize("offset", [8, 8 + 16, 32, 32 + 80])
def test_half_written_record_is_not_believed(file, clock, offset):
    FileBeacon(file, clock).phase("compute", 5)
    with file.open("r+b") as raw:
        raw.seek(offset)
        raw.write(struct.pack("=Q", 999))
    assert read_beacon(file) is None


def test_what_is_read_while_writing_is_always_whole(file):
    times = iter(range(10**9))
    beacon = FileBeacon(file, lambda: float(next(times)))
    done = threading.Event()

    def write():
        step = 0
        while not done.is_set():
            step += 1
            beacon.phase("compute", step)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = [read_beacon(file) for _ in range(300)]
    finally:
        done.set()
        writer.join()
    assert all(found is None or found.since == found.changed for found in seen)
    steps = [found.step for found in seen if found is not None]
    assert steps == sorted(steps)
    assert steps


def test_restart_begins_anew(file, clock):
    FileBeacon(file, clock).phase("save", 90)
    FileBeacon(file, clock)
    assert (read_beacon(file).phase, read_beacon(file).step) == ("start", -1)


def test_file_is_private(file, clock):
    FileBeacon(file, clock)
    assert os.stat(file).st_mode & 0o777 == 0o600


def test_without_an_agent_nothing_happens(nobody_yet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    beacon = beacon_from_environment({})
    beacon.phase("compute", 1)
    beacon.entered(1, 0)
    with beacon.waiting_for_peers():
        pass
    beacon.close()
    assert current() is beacon
    assert not list(tmp_path.iterdir())


def test_beacon_of_the_process_is_made_once(nobody_yet, file):
    first = beacon_from_environment({ENV_BEACON: str(file)})
    first.phase("compute", 3)
    assert beacon_from_environment({ENV_BEACON: str(file)}) is first
    assert current() is first
    assert read_beacon(file).step == 3
    first.close()


def test_environment_of_the_process_is_the_default(nobody_yet, file, monkeypatch):
    monkeypatch.setenv(ENV_BEACON, str(file))
    made = beacon_from_environment()
    assert read_beacon(file).phase == "start"
    made.close()


def test_file_that_cannot_be_made_means_nobody_watches(nobody_yet, tmp_path):
    beacon = beacon_from_environment({ENV_BEACON: str(tmp_path / "gone" / "beacon")})
    with beacon.waiting_for_peers():
        beacon.phase("data")
    assert current() is beacon


def test_the_seconds_of_waiting_are_counted_once_however_they_nest(clock):
    beacon = Beacon(clock)  # also where no agent watches
    assert beacon.waited == 0.0
    with beacon.waiting_for_peers():
        clock.now += 3.0
        with beacon.waiting_for_peers():
            clock.now += 2.0
    clock.now += 10.0
    assert beacon.waited == 5.0

    def lose_a_peer():
        with beacon.waiting_for_peers():
            clock.now += 0.5
            raise RuntimeError("peer lost")

    with pytest.raises(RuntimeError, match="peer lost"):
        lose_a_peer()
    assert beacon.waited == 5.5
