"""The batches of a run: which samples, how they are decoded, augmented and tokenised."""

from __future__ import annotations

from functools import partial

from clip_trainer.data.loader import BatchLoader
from clip_trainer.text import LoaderTokenizer, tokenizer_folder
from clip_trainer.train.run import Run
from clip_trainer.vision import UndecodableImage, decode_image


def open_loader(run: Run) -> BatchLoader:
    """The rank's batches from the current position to the end of the run."""
    spec, transforms = run.spec, run.transforms
    return BatchLoader(
        run.dataset,
        run.order,
        transform=transforms.train,
        decode=partial(decode_image, max_pixels=spec.data.max_pixels),
        tokenize=LoaderTokenizer(run.model.config.text, tokenizer_folder(spec.model.name)),
        image_size=transforms.image_size,
        global_batch=spec.train.global_batch,
        rank=run.group.rank,
        world=run.group.world,
        start_position=run.state.samples_consumed,
        stop_position=run.total_steps * spec.train.global_batch,
        threads=spec.data.threads,
        prefetch_batches=spec.data.prefetch_batches,
        undecodable=(UndecodableImage,),
    )
