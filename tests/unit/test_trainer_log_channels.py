"""A log's slowness and failures stay in its own thread; what is logged has OpenCLIP's names."""

import threading

import pytest

from clip_trainer.log import channel as channel_module
from clip_trainer.log.channel import Channel
from clip_trainer.log.scalars import evaluation_scalars, train_scalars
from clipctl.contract.errors import UnavailableError
from clipctl.contract.sections import EvalSection


class Recorder:
    def __init__(self):
        self.calls = []

    def train(self, scalars, step):
        self.calls.append((scalars, step))

    def flush(self):
        self.calls.append("flush")

    def close(self):
        self.calls.append("close")


class TestChannel:
    def test_entries_come_in_order_and_the_end_is_waited_for(self):
        recorder = Recorder()
        channel = Channel("test", lambda: recorder)
        for step in range(3):
            channel.put(lambda log, step=step: log.train({}, step))
        channel.close()
        assert recorder.calls == [({}, 0), "flush", ({}, 1), "flush", ({}, 2), "flush", "close", "flush"]
        assert channel.take_problem() is None

    def test_a_log_that_cannot_open_is_told_once(self):
        def fail():
            raise RuntimeError("no network")

        channel = Channel("test", fail)
        for _ in range(3 * channel_module.CAPACITY // 2):
            channel.put(lambda log: None)
        channel.close()
        problems = [channel.take_problem(), channel.take_problem()]
        assert problems[0] is not None
        assert problems[1] is None

    def test_a_log_that_fails_gets_nothing_more(self):
        recorder, asked = Recorder(), []

        def fail(log):
            asked.append(log)
            raise ValueError("broken")

        channel = Channel("test", lambda: recorder)
        channel.put(fail)
        channel.put(fail)
        channel.close()
        assert len(asked) == 1
        assert channel.take_problem() == "test stopped logging: ValueError: broken"

    def test_an_outage_of_the_storage_is_told_once_and_the_log_goes_on(self):
        class Flaky(Recorder):
            def flush(self):
                super().flush()
                if len(self.calls) < 6:
                    raise UnavailableError("storage is away.")

        log = Flaky()
        channel = Channel("test", lambda: log)
        for step in range(4):
            channel.put(lambda log, step=step: log.train({}, step))
        channel.close()
        assert [call[1] for call in log.calls if isinstance(call, tuple)] == [0, 1, 2, 3]
        assert channel.take_problem() == "test: storage is away."
        assert channel.take_problem() is None

    def test_a_slow_log_never_holds_up_training(self, monkeypatch):
        monkeypatch.setattr(channel_module, "CAPACITY", 5)
        release, recorder = threading.Event(), Recorder()
        channel = Channel("test", lambda: release.wait(30) and recorder)
        for step in range(50):
            channel.put(lambda log, step=step: log.train({}, step))
        assert channel.take_problem() == "test does not keep up; entries are dropped"
        channel.close(seconds=0.01)  # gives up as well
        release.set()
        channel.close()
        assert [call[1] for call in recorder.calls if isinstance(call, tuple)] == [0, 1, 2, 3, 4]


def scalars(**changes):
    values = {"learning_rate": 1e-3, "logit_scale": 14.3, "data_seconds": 0.1, "batch_seconds": 2.0, "samples": 64}
    return train_scalars({"contrastive_loss": 3.0}, **{**values, "loss": 3.0, "world": 4, **changes})


class TestTags:
    """Measured on open_clip_torch 3.3.0."""

    def test_training(self):
        assert scalars() == {
            "train/data_time": 0.1,
            "train/batch_time": 2.0,
            "train/samples_per_second": 32.0,
            "train/samples_per_second_per_gpu": 8.0,
            "train/scale": 14.3,
            "train/lr": 1e-3,
            "train/contrastive_loss": 3.0,
            "train/loss": 3.0,
        }

    def test_a_clock_that_stood_still(self):
        assert scalars(batch_seconds=0.0)["train/samples_per_second"] == 0.0

    def test_evaluation(self):
        imagenet = {"data": "x", "classes": "imagenet"}
        pairs = ("mean_rank", "median_rank", "R@1", "R@5", "R@10")
        retrieval = {f"{way}_{name}": 1.0 for way in ("image_to_text", "text_to_image") for name in pairs}
        retrieval |= {
            "clip_val_loss": 2.0,
            "val_generative_loss": 3.0,
            "num_samples": 9,
            "num_captions": 9,
            "skipped": 0,
        }
        accuracy = {"top1": 0.5, "top5": 0.75, "images": 4, "skipped": 0}
        section = {"zero_shot": imagenet, "zero_shot_sets": {"imagenetv2": imagenet}, "retrieval": {"data": "x"}}
        results = {"zero_shot": accuracy, "zero_shot_sets": {"imagenetv2": accuracy}, "retrieval": retrieval}
        found = evaluation_scalars(EvalSection.model_validate(section), results, 2.0)
        wanted = {f"val/{way}_{name}" for way in ("image_to_text", "text_to_image") for name in pairs}
        wanted |= {"val/clip_val_loss", "val/epoch", "val/num_samples", "val/val_generative_loss"}
        wanted |= {f"val/{name}-zeroshot-val-top{k}" for name in ("imagenet", "imagenetv2") for k in (1, 5)}
        assert set(found) == wanted
        assert (found["val/epoch"], found["val/imagenetv2-zeroshot-val-top5"]) == (2.0, 0.75)

    def test_a_set_of_other_classes(self):
        section = EvalSection.model_validate({"zero_shot": {"data": "x", "classes": ["a", "b"]}})
        results = {"zero_shot": {"top1": 1.0, "top5": 1.0, "images": 1, "skipped": 0}}
        assert set(evaluation_scalars(section, results, 1.5)) == {
            "val/zeroshot-val-top1",
            "val/zeroshot-val-top5",
            "val/epoch",
        }

    @pytest.mark.parametrize("results", [{}, {"retrieval": {}}])
    def test_nothing_evaluated_is_nothing_logged(self, results):
        assert evaluation_scalars(EvalSection(), results, 1.0) == {}
