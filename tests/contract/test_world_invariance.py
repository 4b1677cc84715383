"""However many ranks train a run, and however often that changes: the same batches, rates, losses and weights."""

import pytest

from clip_testkit.ranks import run_ranks
from clip_testkit.shards import write_dataset
from clip_testkit.training import write_config
from clip_testkit.worldwork import Phase, Scenario, train_scenarios

STEPS = 24
BATCH = 10  # three ranks have 4, 3 and 3 samples, four have 3, 3, 2 and 2
RANKS = 4

PLANS = {
    "one": (Phase(1, STEPS),),
    "two": (Phase(2, STEPS),),
    "three": (Phase(3, STEPS),),
    "four": (Phase(4, STEPS),),
    "three-again": (Phase(3, STEPS),),
    "two-whole": (Phase(2, STEPS),),
    "two-sharded": (Phase(2, 12),),  # tiny shards take long: the collectives of a step are many
    "three-sharded": (Phase(3, 12),),
    "resized": (Phase(1, 5), Phase(3, 11), Phase(2, 16), Phase(4, STEPS)),
    "resized-otherwise": (Phase(4, 1), Phase(1, 2), Phase(2, 17), Phase(3, STEPS)),
}
"""Who trains until when. `-whole` has large micro-batches, the others small ones; `-sharded` shards the model."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """By plan, what each rank saw. All plans in the same four processes: starting some costs more than training."""
    folder = tmp_path_factory.mktemp("world")
    write_dataset(folder / "data", [17, 30, 16])
    scenarios = []
    for name, phases in PLANS.items():
        micro_batch = 256 if name.endswith("-whole") else 3
        parallel = "fsdp" if name.endswith("-sharded") else "ddp"
        config = write_config(
            folder,
            name,
            str(folder / "data"),
            train={"global_batch": BATCH, "micro_batch": micro_batch, "steps": STEPS + 1, "parallel": parallel},
            checkpoint={"every_steps": 1000},
            scale={"nodes": {"max": RANKS}},
        )
        scenarios.append(Scenario(str(config), phases))
    meetings = folder / "meetings"
    meetings.mkdir()
    answers = run_ranks(RANKS, folder, train_scenarios, str(meetings), scenarios)
    return {name: [answer[index] for answer in answers] for index, name in enumerate(PLANS)}


@pytest.fixture(scope="module")
def reference(trained):
    """The steps of the run in one process."""
    return trained["one"][0].steps


@pytest.mark.parametrize("name", PLANS)
def test_every_step_is_done_once_by_whom_the_plan_says(trained, name):
    for rank, answer in enumerate(trained[name]):
        expected = {}
        begun = 1
        for world, until in PLANS[name]:
            if rank < world:
                expected |= dict.fromkeys(range(begun, until + 1), world)
            begun = until + 1
        assert {number: step.world for number, step in answer.steps.items()} == expected


@pytest.mark.parametrize("name", PLANS)
def test_batches_and_learning_rates_are_the_same(trained, reference, name):
    assert len({step.digest for step in reference.values()}) == STEPS
    assert len({step.lr for step in reference.values()}) > STEPS // 2
    for answer in trained[name]:
        for number, step in answer.steps.items():
            assert (step.digest, step.lr) == (reference[number].digest, reference[number].lr)


@pytest.mark.parametrize("name", PLANS)
def test_losses_are_the_same(trained, reference, name):
    assert reference[STEPS].loss != pytest.approx(reference[1].loss, rel=1e-2)
    for answer in trained[name]:
        for number, step in answer.steps.items():
            assert step.loss == pytest.approx(reference[number].loss, rel=1e-6), number
            assert step.gradient_norm == pytest.approx(reference[number].gradient_norm, rel=1e-4), number


@pytest.mark.parametrize("name", PLANS)
def test_all_ranks_see_the_same_and_have_the_same_weights(trained, name):
    last, until = PLANS[name][-1]
    present = trained[name][: 1 if name.endswith("-sharded") else last]  # a rank has its own shards only
    assert len({answer.checksum for answer in present}) == 1
    for number in range(1, until + 1):
        assert len({answer.steps[number] for answer in trained[name] if number in answer.steps}) == 1


def test_the_same_world_gives_the_same_bits(trained):
    one, other = trained["three"][0], trained["three-again"][0]
    assert one.steps == other.steps
    assert one.checksum == other.checksum
    assert trained["two"][0].checksum != one.checksum  # so the checksum would tell
