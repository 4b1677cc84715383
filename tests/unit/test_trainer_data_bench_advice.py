"""From measurements to words: the bottleneck is named, and the advice fits it."""

from clip_trainer.data.bench.advice import Situation, advise
from clip_trainer.data.bench.timing import Timing


def stage(micros, *, threads=4, busy=1.0, seconds=10.0):
    """A stage that costs so many CPU-µs a sample and uses all threads, or the share that it got."""
    samples = round(busy * threads * seconds / (micros / 1e6))
    return Timing(samples, seconds, busy * threads * seconds)


def reading(rate, micros=20, size=50_000, seconds=10.0):
    samples = round(rate * seconds)
    return Timing(samples, seconds, samples * micros / 1e6, samples * size)


def situation(*, read=50_000, decode=800, transform=300, tokenise=10, busy=1.0, reached=None, **given):
    threads = given.setdefault("threads", 4)
    stages = {
        "read": reading(read),
        "decode": stage(decode, threads=threads, busy=busy),
        "transform": stage(transform, threads=threads, busy=busy),
        "tokenise": stage(tokenise, threads=threads, busy=busy),
    }
    total = 20 + decode + transform + tokenise
    rate = reached or 0.9 * min(read, busy * min(threads, given.get("cpus", 4)) / total * 1e6)
    end = Timing(round(rate * 10), 10.0, rate * 10 * total / 1e6)
    defaults = {"cpus": 4, "remote": True, "image_side": 560.0, "input_side": 224}
    return Situation(stages=stages, end_to_end=end, **{**defaults, **given})


def test_decoding_of_large_images():
    found = advise(situation())
    assert found.bottleneck == "decode"
    first, second, third = found.sentences
    assert first.startswith("decode-bound: it takes 71 % of the CPU time of a sample (800 of 1,130 µs)")
    assert "2.5 times as large as the model's input of 224 pixels" in second
    assert "`clipctl data reshard --resize 256`" in second
    assert "1/4.8 of the pixels to decode" in second
    assert "2.3 times the samples/s" in second  # 1130 / (1130 - 800 * (1 - 1 / 4.8))
    assert third == "All 4 CPUs are at work; more of them help in proportion."


def test_images_that_are_small_already_are_left_alone():
    found = advise(situation(image_side=280.0))
    assert found.bottleneck == "decode"
    assert not any("reshard" in sentence for sentence in found.sentences)


def test_the_size_to_keep_follows_the_model():
    assert "--resize 384" in " ".join(advise(situation(input_side=336)).sentences)


def test_threads_that_are_not_used():
    found = advise(situation(threads=1, cpus=8))
    assert found.sentences[-1] == "There are 8 CPUs: data.threads: 8 gives up to 8.0 times as many samples/s."


def test_one_cpu():
    assert "1 CPU " in advise(situation(threads=1, cpus=1)).sentences[-1]


def test_slow_storage():
    found = advise(situation(read=500))
    assert found.bottleneck == "storage"
    assert found.sentences[0] == "storage-bound: reading gives 500 samples/s (25 MB/s); 4 CPUs could take 3,540."
    assert "in the same zone" in found.sentences[1]
    assert "would leave about 1/4.8 of the bytes to read" in found.sentences[2]


def test_a_slow_disk():
    found = advise(situation(read=500, remote=False, image_side=200.0))
    assert found.sentences[1:] == ("Keep the shards on a faster disk.",)


def test_other_stages():
    assert advise(situation(transform=2000)).bottleneck == "transform"
    assert advise(situation(tokenise=2000)).bottleneck == "tokenise"
    assert advise(situation(transform=2000)).sentences[0].startswith("transform-bound")


def test_all_together_far_slower_than_the_stages():
    found = advise(situation(reached=600))
    assert found.bottleneck == "loader"
    assert "would allow 3,540 samples/s, together they reach 600" in found.sentences[0]


def test_a_busy_machine_is_not_taken_for_a_slow_loader():
    found = advise(situation(busy=0.25))
    assert found.bottleneck == "decode"
    assert found.sentences[-1] == "Other programs use the CPUs: this measurement got 25 % of them. Repeat it."


def test_a_busy_machine_is_not_taken_for_a_fast_one():
    """A quarter of the CPUs would take 885 samples/s, and the storage gives more than that."""
    assert advise(situation(busy=0.25, read=1500)).bottleneck == "decode"
    assert advise(situation(busy=1.0, read=1500)).bottleneck == "storage"
