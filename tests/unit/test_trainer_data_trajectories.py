"""What is committed through resizes, kills and replays: property tests over whole lives of runs.

A life is simulated as the trainer lives it: steps on some number of ranks, checkpoints every so often, and kills after
which everything since the last checkpoint is done again, on another number of ranks. What counts is the trajectory: of
every step its last execution.
"""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_testkit.runyaml import spec_with
from clip_trainer.data.samples.joined import JoinedSamples
from clip_trainer.train.ledger import sample_digest
from clip_trainer.train.sample_order import epoch_of, order_of
from clipctl.contract.spec import lane_count

KINDS = [
    (),
    ("data.resample={weight_by: sample, samples_per_epoch: 50}",),
    ("data.resample={weight_by: shard}",),
    ("data.resample={weight_by: source}",),
]


class Numbers:
    """A set of samples of which only the numbers matter."""

    url, identity, remote = "numbers", "n", False

    def __init__(self, counts):
        self.counts = counts


def order(parts, kind, batch, ranks, seed):
    weight = 1.0 if not kind else 2.0
    sources = ", ".join(f"{{url: s{number}, weight: {weight if number else 1.0}}}" for number in range(len(parts)))
    settings = (f"train.global_batch={batch}", f"scale.nodes.max={ranks}", f"train.seed={seed}")
    spec = spec_with(f"data.train=[{sources}]", "data.shuffle_block=4", *settings, *kind)
    return order_of(spec, JoinedSamples([Numbers(part) for part in parts]))


@st.composite
def lives(draw):
    """A factory of equal orders, its batch, and the attempts of a run: ranks, and steps until it is killed."""
    parts = draw(st.lists(st.lists(st.integers(1, 15), min_size=1, max_size=4), min_size=1, max_size=3))
    ranks, per_lane = draw(st.integers(1, 7)), draw(st.integers(1, 3))
    lanes = draw(st.integers(ranks, 12))
    kind, seed = draw(st.sampled_from(KINDS)), draw(st.integers(0, 2**32))
    attempts = draw(st.lists(st.tuples(st.integers(1, ranks), st.integers(1, 9)), min_size=1, max_size=8))
    return lambda: order(parts, kind, lanes * per_lane, ranks, seed), lanes * per_lane, attempts, kind


def live(make, batch, attempts, every, steps):
    """The trajectory: digest and samples of every step, by step."""
    trajectory, checkpoint = {}, 0
    endless = [*attempts, *[(1, steps)] * (steps + 1)]
    for world, until in endless:
        own = make()  # a new process knows nothing of the old one
        for step in range(checkpoint, min(checkpoint + until, steps)):
            parts = [own.local_batch(step * batch, batch, rank, world) for rank in range(world)]
            ids = [np.array([ref.sample_id for ref in part], np.uint64) for part in parts]
            digest = sum(int(sample_digest(own_ids, step * batch)) for own_ids in ids) % 2**64
            trajectory[step] = digest, [ref for part in parts for ref in part]
            if (step + 1) % every == 0 or step + 1 == steps:
                checkpoint = step + 1
        if checkpoint == steps:
            return trajectory
    pytest.fail("the run does not end")


@given(life=lives(), every=st.integers(1, 4))
@settings(max_examples=30)
def test_a_trajectory_does_not_depend_on_its_history(life, every):
    make, batch, attempts, _ = life
    calm = live(make, batch, [], 1, 12)
    hard = live(make, batch, attempts, every, 12)
    assert {step: digest for step, (digest, _) in hard.items()} == {step: digest for step, (digest, _) in calm.items()}
    for step in calm:
        assert Counter(hard[step][1]) == Counter(calm[step][1])
        ids = make().sample_ids(step * batch, batch).astype(np.uint64)
        assert int(sample_digest(ids, step * batch)) % 2**64 == calm[step][0]


@given(life=lives(), every=st.integers(1, 4))
@settings(max_examples=30)
def test_epochs_of_a_trajectory_are_the_data_sets(life, every):
    make, batch, attempts, kind = life
    if kind:
        return
    epochs, samples = 2, make().samples
    steps = -(-epochs * samples // batch)
    refs = [ref for _, refs in live(make, batch, attempts, every, steps).values() for ref in refs]
    for epoch in range(epochs):
        assert sorted(ref.sample_id for ref in refs if ref.epoch == epoch) == list(range(samples))


def test_the_order_that_run_yaml_describes():
    parts = [[40, 40], [40]]
    assert order(parts, (), 8, 4, 3).samples == 120
    assert order(parts, (), 8, 4, 3).lanes == lane_count(8, 4) == 8
    assert order(parts, KINDS[1], 8, 4, 3).samples == 50
    shares = [float((order(parts, kind, 8, 4, 3).sample_ids(0, 40_000) >= 80).mean()) for kind in KINDS[1:]]
    assert shares == pytest.approx([0.5, 0.5, 2 / 3], abs=0.01)  # 40 * 2 : 80, 1 * 2 : 2, 2 : 1


def test_weights_by_shard_and_by_sample_differ_with_the_sizes():
    shares = [float((order([[10, 10], [40]], kind, 8, 4, 3).sample_ids(0, 40_000) >= 20).mean()) for kind in KINDS[1:]]
    assert shares == pytest.approx([0.8, 0.5, 2 / 3], abs=0.01)  # 40 * 2 : 20, 1 * 2 : 2, 2 : 1


def test_the_length_of_an_epoch():
    numbers = JoinedSamples([Numbers([100])])
    for overrides, samples in [((), 100), (("data.epoch_samples=30",), 30), (KINDS[1], 50), (KINDS[2], 100)]:
        spec = spec_with(*overrides)
        assert epoch_of(spec, order_of(spec, numbers)) == samples
