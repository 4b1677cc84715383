"""The batches of a run: which samples, how they are decoded, augmented and tokenised."""

from __future__ import annotations

import sys
from dataclasses import asdict
from functools import partial

from clip_trainer.data.loading.activity import Stall
from clip_trainer.data.loading.loader import BatchLoader
from clip_trainer.data.samples.captions import any_caption, weighted_caption
from clip_trainer.text import LoaderTokenizer, tokenizer_folder
from clip_trainer.train.run import Run
from clip_trainer.vision import UndecodableImage, decode_image
from clipctl.contract.sections import quantity_bytes


def open_loader(run: Run) -> BatchLoader:
    """The rank's batches from the current position to the end of the run."""
    spec, transforms = run.spec, run.transforms
    memory = quantity_bytes(spec.data.memory)
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
        cache_bytes=memory,
        memory_bytes=memory,
        undecodable=(UndecodableImage,),
        choose_caption=weighted_caption(spec.data.captions) if spec.data.captions else any_caption,
        pin_memory=run.group.device.type == "cuda",
        stall_seconds=spec.data.stall_seconds,
        on_stall=partial(_report_stall, run),
    )


def _report_stall(run: Run, stall: Stall) -> None:
    """Say what the data waits for: every rank in its log, the first one also in the ledger.

    The storage of the ledger may be what is slow, so it is not insisted upon.
    """
    message = f"rank {run.group.rank}: {stall}"
    print(message, file=sys.stderr, flush=True)
    run.events.write("data_stall", message=message, step=run.state.step, **asdict(stall))
    run.events.try_flush()
