"""Which samples a run shows when: the order that its specification and its data make."""

from __future__ import annotations

from clip_trainer.data.order.base import Order
from clip_trainer.data.order.lanes import SampleOrder
from clip_trainer.data.order.pools import WeightedSource, pools_of
from clip_trainer.data.order.resampling import ResampledOrder
from clip_trainer.data.samples.joined import JoinedSamples
from clipctl.contract.spec import RunSpec, lane_count


def order_of(spec: RunSpec, samples: JoinedSamples) -> Order:
    """Every sample once an epoch or, with `data.resample`, drawn by the weights of the sources.

    Raises:
        MissingError: there are no samples.
    """
    data, seed = spec.data, spec.train.seed
    lanes = lane_count(spec.train.global_batch, spec.max_world, data.lanes)
    if data.resample is None:
        return SampleOrder(samples.counts, seed=seed, lanes=lanes, shuffle_block=data.shuffle_block)
    weights = (source.weight for source in data.sources)
    sources = [WeightedSource(shards, weight) for shards, weight in zip(samples.shards, weights, strict=True)]
    return ResampledOrder(
        samples.counts,
        pools_of(samples.counts, sources, data.resample.weight_by),
        seed=seed,
        lanes=lanes,
        shuffle_block=data.shuffle_block,
        epoch=data.resample.samples_per_epoch,
    )


def epoch_of(spec: RunSpec, order: Order) -> int:
    """Samples that count as an epoch for the length of the run, its schedule and its evaluations."""
    return spec.data.epoch_samples or order.samples
