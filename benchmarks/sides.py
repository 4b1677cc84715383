"""The two sides of the loader comparisons: OpenCLIP's training pipeline as it is, and this project's loader.

Each is a generator of batches' sizes, so that one stopwatch measures both.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path

SIZE = 224
WORKERS = 2


def import_open_clip() -> None:
    """Import open_clip, also where torchvision was built for CUDA and torch was not.

    The library of torchvision's detection operators cannot load then, and all it is wanted for at import is to
    describe them; its transforms are Python.
    """
    import torch

    if torch.version.cuda is None and importlib.util.find_spec("torchvision") is not None:
        sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
    import open_clip  # noqa: F401


def open_clip_batches(directory: Path, batch: int, samples: int, *, shuffle: bool = True) -> Iterator[int]:
    """OpenCLIP's own `get_wds_dataset` with two worker processes.

    Args:
        directory: of shards.
        batch: samples of a batch.
        samples: of the whole pass.
        shuffle: with its shuffle buffer (1000 samples before the first one comes out), else with one of a sample.
    """
    import open_clip
    from open_clip.transform import image_transform
    from open_clip_train import data
    from webdataset.tariterators import tar_file_expander

    # Newer releases of webdataset mark the end of each shard, which this release of OpenCLIP takes for a sample.
    data.tar_file_expander = partial(tar_file_expander, eof_value=None)
    if not shuffle:
        data._SAMPLE_SHUFFLE_SIZE = data._SAMPLE_SHUFFLE_INITIAL = 1
    names = sorted(directory.glob("*.tar"))
    pattern = f"{directory}/{{{names[0].stem}..{names[-1].stem}}}.tar"
    arguments = argparse.Namespace(
        train_data=pattern,
        train_data_upsampling_factors=None,
        train_num_samples=samples,
        dataset_resampled=False,
        seed=0,
        batch_size=batch,
        workers=WORKERS,
        world_size=1,
    )
    preprocess = image_transform(SIZE, is_train=True, aug_cfg={"scale": (0.9, 1.0)})
    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    info = data.get_wds_dataset(arguments, preprocess, is_train=True, tokenizer=tokenizer)
    for images, _ in info.dataloader:
        yield len(images)


def own_batches(directory: Path, batch: int, samples: int, *, reduced: bool = False) -> Iterator[int]:
    """`BatchLoader` with two decoder threads.

    Args:
        directory: of shards with their index.
        batch: samples of a batch.
        samples: of the whole pass.
        reduced: decode large photos at a fraction of their size (not the exact pixels).
    """
    from clip_trainer.data.index.dataset import open_dataset
    from clip_trainer.data.loading.loader import BatchLoader
    from clip_trainer.data.order.lanes import SampleOrder
    from clip_trainer.text import BpeTokenizer
    from clip_trainer.vision import UndecodableImage, decode_image, train_transform

    dataset = open_dataset(str(directory))
    order = SampleOrder(dataset.counts, seed=0, lanes=min(batch, 64), shuffle_block=1024)
    options = {"enough": 2 * SIZE} if reduced else {}
    with BatchLoader(
        dataset,
        order,
        transform=lambda image, key: train_transform(image, SIZE, key),
        decode=partial(decode_image, **options),
        tokenize=BpeTokenizer(),
        image_size=(SIZE, SIZE),
        global_batch=batch,
        threads=WORKERS,
        stop_position=samples,
        undecodable=(UndecodableImage,),
    ) as loader:
        for made in loader:
            yield len(made.images)
