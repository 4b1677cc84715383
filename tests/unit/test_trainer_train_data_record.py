"""What a loader counts becomes metrics and, now and then, an event."""

import pytest

from clip_trainer.train.data_record import DataRecord
from clip_trainer.train.metrics import TrainerMetrics
from clipctl.contract import metric_names as names


class Events:
    def __init__(self):
        self.written = []

    def write(self, event, **fields):
        self.written.append((event, fields))


class Loader:
    def __init__(self):
        self.counts = dict.fromkeys(("bytes_read", "requests", "retries", "cache_hits", "cache_misses", "stalls"), 0)

    def snapshot(self):
        return {**self.counts, "memory_bytes": 77, "memory_peak_bytes": 99, "replaced": {"no image": 2}}


@pytest.fixture
def scene():
    events, metrics, loader = Events(), TrainerMetrics(), Loader()
    return DataRecord(events, metrics, loader.snapshot, every=3), events, metrics, loader


def value(metrics, metric, **labels):
    return metrics.registry.get_sample_value(metric.name, labels)


def test_counters_follow_the_loader(scene):
    record, _, metrics, loader = scene
    for step in (1, 2):
        for number, key in enumerate(loader.counts):
            loader.counts[key] += 10 + number
        record.step(step, 0.0, 1.0)
    assert value(metrics, names.TRAIN_DATA_BYTES) == 20
    assert value(metrics, names.TRAIN_DATA_REQUESTS) == 22
    assert value(metrics, names.TRAIN_DATA_RETRIES) == 24
    assert value(metrics, names.TRAIN_DATA_CACHE, result="hit") == 26
    assert value(metrics, names.TRAIN_DATA_CACHE, result="miss") == 28
    assert value(metrics, names.TRAIN_DATA_STALLS) == 30
    assert value(metrics, names.TRAIN_DATA_MEMORY) == 77


@pytest.mark.parametrize(("waited", "seconds", "share"), [(1.0, 4.0, 0.25), (0.0, 0.0, 0.0), (5.0, 4.0, 1.0)])
def test_the_share_of_waiting(scene, waited, seconds, share):
    record, _, metrics, _ = scene
    record.step(1, waited, seconds)
    assert value(metrics, names.TRAIN_DATA_WAIT) == share


def test_an_event_every_so_many_steps_about_the_steps_since_the_last(scene):
    record, events, _, loader = scene
    for step in range(1, 8):
        loader.counts["requests"] = step
        record.step(step, 1.0 if step > 3 else 0.0, 2.0)
    assert [(event, fields["step"], fields["wait_ratio"]) for event, fields in events.written] == [
        ("data", 3, 0.0),
        ("data", 6, 0.5),
    ]
    fields = events.written[-1][1]
    assert fields["requests"] == 6
    assert (fields["memory_peak_bytes"], fields["replaced"]) == (99, {"no image": 2})
