"""Seeded damage to stored checkpoints: noticed, every time (the long version: benchmarks/checkpoint_corruption.py)."""

import pytest

from clip_testkit import corruption
from clip_testkit.corruption import NOTICED, STEPS, WRONG, judge, read, run, saved_run
from clip_testkit.memorystore import MemoryStore
from clipctl.contract import commits, layout
from clipctl.contract.errors import CorruptError
from clipctl.contract.layout import CheckpointId

SEEDS = (1, 2, 3)
NEWEST = CheckpointId(STEPS[-1], 1)


def truth():
    return {step: read(MemoryStore(saved_run()), CheckpointId(step, 1)) for step in STEPS}


@pytest.mark.parametrize("seed", SEEDS)
def test_no_damage_goes_unnoticed(seed):
    tally = run(500, seed)
    assert tally.wrong == [], f"seed {seed}"
    assert tally.cases == 500
    assert tally.outcomes.keys() == {"flip", "cut", "swap", "zero", "append", "duplicate", "delete", "rename"}
    assert all(outcomes[NOTICED] for outcomes in tally.outcomes.values())


def test_the_same_seed_is_the_same_damage():
    one, two = (corruption.damages(saved_run(), 5) for _ in range(2))
    assert [next(one) for _ in range(50)] == [next(two) for _ in range(50)]


class TestTheJudge:
    """Without these, a judge that says `noticed` to everything would pass."""

    def test_an_undamaged_run_is_not_noticed(self):
        assert judge(saved_run(), truth())[0] == corruption.HARMLESS

    def test_a_reader_that_hands_out_other_values_is_wrong(self, monkeypatch):
        def careless(store, checkpoint):
            return {**read(store, checkpoint), "samples": 0}

        monkeypatch.setattr(corruption, "read", careless)
        assert judge(saved_run(), truth())[0] == WRONG

    def test_a_reader_that_crashes_is_wrong(self, monkeypatch):
        def crash(store, checkpoint):
            raise KeyError("x")

        monkeypatch.setattr(corruption, "read", crash)
        assert judge(saved_run(), truth())[0] == WRONG

    @pytest.mark.parametrize("check", ["_check_chunks", "sha256_hex"])
    def test_a_reader_without_a_check_is_found_out(self, monkeypatch, check):
        monkeypatch.setattr(commits, check, lambda *arguments: AlwaysEqual())
        assert run(400, 1).wrong

    def test_a_run_that_seems_empty_is_wrong(self):
        assert judge({}, truth())[0] == WRONG

    def test_a_newest_checkpoint_that_vanishes_without_a_word_is_wrong(self):
        objects = saved_run()
        del objects[layout.commit_key(NEWEST)], objects["LATEST"]
        assert judge(objects, truth())[0] == WRONG


class AlwaysEqual:
    def __ne__(self, other):
        return False

    __hash__ = None

    def __eq__(self, other):
        return True


class TestLostRecords:
    """LATEST is a hint, but one that tells of a commit record that was lost."""

    def newest(self, objects, **options):
        rejected = []
        found = commits.newest(MemoryStore(objects), commits.verify, rejected.append, **options)
        return found.step if found else None, [r.checkpoint.step for r in rejected]

    def test_it_is_told(self):
        objects = saved_run()
        del objects[layout.commit_key(NEWEST)]
        assert self.newest(objects) == (10, [20])

    def test_all_records_lost_is_no_fresh_start(self):
        objects = {key: data for key, data in saved_run().items() if not key.startswith("commits/")}
        with pytest.raises(CorruptError, match="all 1 committed"):
            self.newest(objects)

    @pytest.mark.parametrize("text", [b"step-00000010.inc-000001\n", b"", b"\xff", b"step-99999999"])
    def test_pointing_back_or_nowhere_says_nothing(self, text):
        assert self.newest({**saved_run(), "LATEST": text}) == (20, [])

    def test_what_is_not_wanted_is_not_missed(self):
        objects = saved_run()
        del objects[layout.commit_key(NEWEST)]
        assert self.newest(objects, wanted=lambda c: c.step < 20) == (10, [])

    def test_a_commit_that_comes_while_we_look_is_not_taken_for_lost(self):
        """LATEST is read before the listing: what it points to is in the listing."""
        whole, store = saved_run(), MemoryStore(saved_run())
        del store.objects[layout.commit_key(NEWEST)]
        store.objects["LATEST"] = b"step-00000010.inc-000001\n"

        def commits_meanwhile(key):
            found = MemoryStore.read_version(store, key)
            store.objects |= {name: whole[name] for name in ("LATEST", layout.commit_key(NEWEST))}
            return found

        store.read_version = commits_meanwhile
        rejected = []
        assert commits.newest(store, commits.verify, rejected.append).step == 20
        assert rejected == []
