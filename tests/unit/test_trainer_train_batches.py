"""What run.yaml says about images and captions reaches the batches."""

import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from clip_testkit import smalltokenizers
from clip_testkit.eventlogs import opened
from clip_testkit.runyaml import spec_with
from clip_testkit.shards import write_dataset
from clip_trainer.data.index.dataset import open_dataset
from clip_trainer.data.index.reader import ShardReader
from clip_trainer.data.loading import loader as loader_module
from clip_trainer.data.order.lanes import SampleOrder
from clip_trainer.text import BpeTokenizer, HFTokenizer
from clip_trainer.train import batches as batches_module
from clip_trainer.train.batches import open_loader
from clip_trainer.train.events import EventLog
from clip_trainer.vision import Preprocess, transforms_for
from clipctl.contract.errors import UnavailableError
from clipctl.contract.sections import quantity_bytes

COUNTS = [6, 6]


@pytest.fixture
def dataset(tmp_path):
    write_dataset(tmp_path / "data", COUNTS)
    return open_dataset(str(tmp_path / "data"))


def group_of(rank, world):
    return SimpleNamespace(rank=rank, world=world, is_first=rank == 0, device=torch.device("cpu"))


def run_of(dataset, *overrides, image_size=8, hf_tokenizer_name=None, **visual):
    spec = spec_with("train.global_batch=4", *overrides)
    text = {"context_length": 16, "tokenizer_mode": None, "tokenizer_kwargs": None}
    model = SimpleNamespace(
        visual=SimpleNamespace(image_size=image_size, **visual),
        config=SimpleNamespace(text=SimpleNamespace(hf_tokenizer_name=hf_tokenizer_name, **text)),
    )
    return SimpleNamespace(
        spec=spec,
        model=model,
        dataset=dataset,
        order=SampleOrder(COUNTS, seed=0, lanes=4, shuffle_block=8),
        group=group_of(0, 1),
        state=SimpleNamespace(samples_consumed=0),
        total_steps=2,
        transforms=transforms_for(model, spec.model.preprocess, spec.data.augment),
    )


def batches(run):
    with open_loader(run) as loader:
        return list(loader)


def test_images_and_captions(dataset):
    first, second = batches(run_of(dataset))
    assert first.images.shape == second.images.shape == (4, 3, 8, 8)
    numbers = [int(image[0, 0, 0]) * 256 + int(image[1, 0, 0]) for image in first.images]
    expected = BpeTokenizer(16)([f"picture {number}" for number in numbers])
    np.testing.assert_array_equal(first.tokens.numpy(), expected)


def test_rectangular_input(dataset):
    assert batches(run_of(dataset, image_size=(6, 10)))[0].images.shape == (4, 3, 6, 10)


def test_augmentation(dataset):
    plain = batches(run_of(dataset))[0].images
    gray = batches(run_of(dataset, "data.augment.gray_scale_prob=1.0"))[0].images
    assert torch.equal(gray[:, 0], gray[:, 2])
    assert not torch.equal(gray, plain)
    erased = batches(run_of(dataset, "data.augment.erase_prob=1.0"))[0].images
    assert 0 < (erased != plain).any(1).float().mean() < 0.5


def test_preprocessing_of_weights_and_run(dataset):
    run = run_of(dataset, "model.preprocess.resize_mode=squash", preprocess_cfg={"mean": (0.5,) * 3, "size": 8})
    assert run.transforms.preprocess == Preprocess(mean=(0.5,) * 3, resize_mode="squash")


def test_the_tokenizer_of_the_model(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = smalltokenizers.bert(tmp_path / "bert")
    tokens = batches(run_of(dataset, hf_tokenizer_name=str(folder)))[0].tokens
    plain = batches(run_of(dataset))[0]
    numbers = [int(image[0, 0, 0]) * 256 + int(image[1, 0, 0]) for image in plain.images]
    assert torch.equal(tokens, HFTokenizer(folder, 16)([f"picture {number}" for number in numbers]))


def test_the_tokenizer_of_a_model_in_a_folder(dataset, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = smalltokenizers.bert(tmp_path / "model")
    tokens = batches(
        run_of(dataset, f"model.name=local-dir:{folder}", "model.config=any.json", hf_tokenizer_name="org/elsewhere")
    )[0].tokens
    assert (tokens[:, 0] == 2).all()


def test_the_same_keys_give_the_same_images_for_any_number_of_workers(dataset):
    everything = ("data.augment.flip_prob=0.5", "data.augment.erase_prob=0.5", "data.augment.scale=[0.2,1.0]")
    whole = batches(run_of(dataset, *everything))[0]
    parts = {}
    for rank in range(2):
        run = run_of(dataset, *everything)
        run.group = group_of(rank, 2)
        batch = batches(run)[0]
        parts.update(zip(batch.sample_ids.tolist(), batch.images, strict=True))
    assert sorted(parts) == sorted(whole.sample_ids.tolist())
    for sample, image in zip(whole.sample_ids.tolist(), whole.images, strict=True):
        assert torch.equal(parts[sample], image)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_stall_is_printed_and_in_the_ledger_even_if_that_cannot_be_stored(dataset, rank, monkeypatch, capsys):
    monkeypatch.setattr(loader_module, "_LOOK_SECONDS", 0.001)
    run = run_of(dataset, "data.stall_seconds=0.001")
    broken = BrokenStore()
    run.group, run.state.step = group_of(rank, 2), 7
    run.events = opened(broken, 3, lambda: 100.0) if rank == 0 else EventLog(broken, lambda: 100.0)
    reported = threading.Event()
    monkeypatch.setattr(batches_module, "_report_stall", told(batches_module._report_stall, reported))
    train = run.transforms.train
    run.transforms = SimpleNamespace(
        image_size=run.transforms.image_size, train=lambda image, key: reported.wait(60) and train(image, key)
    )
    assert len(batches(run)) == 2
    assert f"rank {rank}: no data for" in capsys.readouterr().err
    if rank == 0:
        broken.write = broken.keep
        run.events.flush()
        [event, *_] = [json.loads(line) for line in broken.kept.splitlines()]
        assert (event["event"], event["step"], event["incarnation"]) == ("data_stall", 7, 3)
        assert event["shard"] in ("shard-000000.tar", "shard-000001.tar")


class BrokenStore:
    kept = b""

    def write(self, key, data):
        raise UnavailableError("the store is gone.")

    def keep(self, key, data):
        self.kept += data


def told(report, event):
    def wrapped(run, stall):
        report(run, stall)
        event.set()

    return wrapped


def test_the_memory_of_run_yaml_bounds_what_is_made_ahead(dataset):
    with open_loader(run_of(dataset, "data.memory=1k", "data.prefetch_batches=50")) as loader:
        next(loader)
        assert loader.snapshot()["memory_peak_bytes"] < 4 << 20


@pytest.mark.parametrize(("memory", "by_block"), [("2Gi", True), ("1k", False)])
def test_the_memory_of_run_yaml_decides_how_remote_shards_are_read(dataset, memory, by_block):
    hints = []

    class Watched:
        remote = True

        def __getattr__(self, name):
            return getattr(dataset, name)

        def open_reader(self, given):
            hints.append(given)
            return dataset.open_reader(given)

    with open_loader(run_of(Watched(), f"data.memory={memory}")) as loader:
        assert len(next(loader).sample_ids)
    assert [given.cache_bytes for given in hints] == [quantity_bytes(memory)]
    far = SimpleNamespace(base="far", remote=True)
    assert ShardReader(far, dataset.index, hints[0]).by_block == by_block
