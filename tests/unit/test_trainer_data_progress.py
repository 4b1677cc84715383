"""Progress is told in order, whatever the threads do."""

from concurrent.futures import ThreadPoolExecutor

from clip_trainer.data.progress import ProgressEvent, ProgressTracker


def test_events_add_up():
    events = []
    tracker = ProgressTracker("index", 2, events.append)
    tracker.add_bytes(10)
    tracker.finish("a.tar")
    tracker.add_bytes(5)
    tracker.finish("b.tar")
    assert events == [
        ProgressEvent("index", 0, 2, 10, ""),
        ProgressEvent("index", 1, 2, 10, "a.tar"),
        ProgressEvent("index", 1, 2, 15, "a.tar"),
        ProgressEvent("index", 2, 2, 15, "b.tar"),
    ]


def test_nobody_has_to_listen():
    ProgressTracker("index", 1, None).finish("a.tar")


def test_threads_are_told_apart():
    events = []
    tracker = ProgressTracker("index", 400, events.append)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: (tracker.add_bytes(3), tracker.finish(str(n))), range(400)))
    assert [event.done for event in events] == sorted(event.done for event in events)
    assert [event.bytes_done for event in events] == sorted(event.bytes_done for event in events)
    assert (events[-1].done, events[-1].bytes_done) == (400, 1200)
