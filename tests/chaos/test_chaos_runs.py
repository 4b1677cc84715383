"""Real agents and workers under random faults, judged by their ledgers. How many faults fit depends on the machine.

CHAOS_MINUTES says how long faults happen in all cases together; `make chaos` sets it.
"""

import os

import pytest

from clip_testkit.soak.__main__ import report
from clip_testkit.soak.plan import plan
from clip_testkit.soak.run import Setting, execute
from clip_testkit.soak.workload import undisturbed

CASES = 4
SECONDS = 60 * float(os.environ.get("CHAOS_MINUTES", "2")) / CASES
PACE = 0.2
STEPS = max(60, int(SECONDS / (PACE + 0.05)))
MTBF = 10.0

# A slow machine may need minutes for what takes seconds elsewhere; only a run that does not end at all is too late.
pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600 + 20 * SECONDS)]


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return undisturbed(tmp_path_factory.mktemp("undisturbed") / "run", STEPS, 3)


def disturbed(setting, seed, reference, folder):
    faults = plan(seed, SECONDS, MTBF, setting.kinds())
    outcome = execute(setting, faults, reference, folder / "soak")
    print(f"seed {seed}\n{report(outcome)}")
    assert outcome.verdict.problems == (), f"seed {seed}\n{report(outcome)}\n{outcome.log[-20000:]}"
    assert sum(outcome.faults.values()) >= 1


def test_three_elastic_nodes_on_a_folder(reference, tmp_path):
    disturbed(Setting("folder", 3, 1, STEPS, PACE, disk=True), 198, reference, tmp_path)


def test_two_elastic_nodes_on_object_storage_that_fails(reference, tmp_path):
    disturbed(Setting("s3", 2, 1, STEPS, PACE), 100, reference, tmp_path)


def test_three_elastic_nodes_that_share_the_model_out(reference, tmp_path):
    disturbed(Setting("folder", 3, 1, STEPS, PACE, disk=True, parallel="fsdp"), 57, reference, tmp_path)


def test_a_world_that_may_not_shrink(reference, tmp_path):
    disturbed(Setting("folder", 2, 2, STEPS, PACE), 332, reference, tmp_path)
