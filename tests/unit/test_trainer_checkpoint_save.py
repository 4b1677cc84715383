"""Saving and restoring: bit for bit, for any number of ranks on either side, and all or nothing."""

import pytest
import torch

from clip_testkit import rankwork
from clip_testkit.ranks import run_ranks
from clip_testkit.rankwork import checkpointer_of, group_of, restore_parts, save_parts, trained_parts
from clip_trainer.checkpoint.incarnation import allocate
from clip_trainer.checkpoint.restore import restore
from clipctl.contract import commits, layout
from clipctl.contract.errors import CorruptError, SpecError, TryAgainError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store_local import LocalStore

ALONE = group_of(0, 1)


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "run")


def save(store, step, seed=1, incarnation=1, **options):
    return checkpointer_of(store, ALONE, incarnation, **options).save(
        step, step * 12, trained_parts(seed), {"s": step}, {}
    )


def restored(store, training="training"):
    """The seed-less parts after restoring, what was found, and what was rejected."""
    parts, rejected = trained_parts(99), []
    found = restore(store, ALONE, parts, training, rejected.append)
    return parts, found, [str(r.checkpoint) for r in rejected]


def equal(parts, seed):
    wanted = trained_parts(seed)
    return all(torch.equal(parts[p][n], wanted[p][n]) for p in wanted for n in wanted[p])


def damage(store, key):
    data = bytearray(store.read(key))
    data[len(data) // 2] ^= 1
    store.write(key, bytes(data))


class TestRoundTrip:
    def test_on_one_rank(self, store):
        save(store, 5, seed=7)
        parts, found, rejected = restored(store)
        assert equal(parts, 7)
        assert (found.checkpoint, found.samples_consumed, found.state) == (CheckpointId(5, 1), 60, {"s": 5})
        assert rejected == []

    @pytest.mark.parametrize(("writers", "readers"), [(2, 3), (3, 1), (1, 2)])
    def test_on_any_number_of_ranks(self, tmp_path, writers, readers):
        root = str(tmp_path / "run")
        for folder in ("save", "restore"):
            (tmp_path / folder).mkdir()
        if writers == 1:
            save_parts(0, 1, root, 7)
        else:
            run_ranks(writers, tmp_path / "save", save_parts, writers, root, 7)
        if readers == 1:
            assert restore_parts(0, 1, root, 7)
        else:
            assert run_ranks(readers, tmp_path / "restore", restore_parts, readers, root, 7) == [True] * readers

    def test_every_rank_writes_its_share(self, tmp_path):
        run_ranks(2, tmp_path, save_parts, 2, str(tmp_path / "run"), 7)
        names = [info.key.rpartition("/")[2] for info in LocalStore(tmp_path / "run").list("checkpoints/")]
        assert names == [
            "manifest.json",
            "optimizer-00000-of-00002.safetensors",
            "optimizer-00001-of-00002.safetensors",
            "share-00000-of-00002.json",
            "share-00001-of-00002.json",
            "weights-00000-of-00002.safetensors",
            "weights-00001-of-00002.safetensors",
        ]

    def test_a_fresh_run_restores_nothing(self, store):
        parts, found, rejected = restored(store)
        assert found is None
        assert equal(parts, 99)
        assert rejected == []

    def test_the_record(self, store):
        checkpointer = checkpointer_of(store, ALONE)
        assert checkpointer.last is None
        first = checkpointer.save(5, 60, trained_parts(1), {}, {"loss": 2.5})
        second = checkpointer.save(10, 120, trained_parts(2), {}, {})
        assert checkpointer.last == second
        record = commits.verify(store, second)
        assert (record.parent, record.world_size, record.writer) == (str(first), 1, "test:1")
        assert commits.verify(store, first).metrics == {"loss": 2.5}
        assert record.bytes_total == sum(
            info.size for info in store.list(layout.checkpoint_prefix(second)) if info.key.endswith("safetensors")
        )
        assert store.read("LATEST").decode() == f"{second}\n"

    def test_nothing_on_disk_is_a_pickle(self, store):
        save(store, 5)
        for info in store.list(""):
            assert store.read(info.key)[:2] not in (b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK"), info.key


class TestDamage:
    @pytest.mark.parametrize("which", ["weights", "optimizer", "manifest", "commits"])
    def test_the_one_before_is_used_and_the_damage_is_reported(self, store, which):
        save(store, 5, seed=5)
        save(store, 10, seed=10)
        (key,) = [i.key for i in store.list("") if which in i.key and "step-00000010" in i.key]
        damage(store, key)
        parts, found, rejected = restored(store)
        assert equal(parts, 5)
        assert found.checkpoint == CheckpointId(5, 1)
        assert rejected == ["step-00000010.inc-000001"]

    def test_all_damaged_is_an_error_and_touches_nothing(self, store):
        for step in (5, 10):
            save(store, step)
        for info in store.list("commits/"):
            damage(store, info.key)
        parts = trained_parts(99)
        with pytest.raises(CorruptError, match="all 2 committed checkpoints"):
            restore(store, ALONE, parts, "training", lambda r: None)
        assert equal(parts, 99)

    def test_a_lost_manifest(self, store):
        save(store, 5, seed=5)
        checkpoint = save(store, 10, seed=10)
        store.delete(f"{layout.checkpoint_prefix(checkpoint)}manifest.json")
        assert equal(restored(store)[0], 5)


class TestIdentity:
    def test_another_run_is_refused(self, store):
        save(store, 5)
        with pytest.raises(SpecError, match="another model, data, global batch or seed") as caught:
            restored(store, training="other")
        assert "new name" in caught.value.hint

    def test_another_model_is_refused_with_what_does_not_fit(self, store):
        save(store, 5)
        parts = trained_parts(99)
        parts["weights"]["extra"] = torch.zeros(3)
        with pytest.raises(CorruptError, match="extra is missing"):
            restore(store, ALONE, parts, "training", lambda r: None)


class TestFencing:
    def test_an_older_incarnation_cannot_commit(self, store):
        old = allocate(store, attempt=1, world=1, now=1.0)
        save(store, 5, incarnation=old)
        new = allocate(store, attempt=1, world=1, now=2.0)
        with pytest.raises(TryAgainError, match="fenced off"):
            save(store, 10, incarnation=old)
        assert commits.list_checkpoints(store) == [CheckpointId(5, old)]
        assert save(store, 10, incarnation=new) == CheckpointId(10, new)

    def test_what_the_older_one_wrote_is_not_in_the_way(self, store):
        old = allocate(store, attempt=1, world=1, now=1.0)
        new = allocate(store, attempt=1, world=1, now=2.0)
        with pytest.raises(TryAgainError):
            save(store, 10, seed=1, incarnation=old)
        save(store, 10, seed=2, incarnation=new)
        assert equal(restored(store)[0], 2)

    def test_a_checkpoint_is_never_written_twice(self, store):
        save(store, 5, seed=1)
        before = {info.key: store.read(info.key) for info in store.list("commits/")}
        with pytest.raises(TryAgainError, match="committed by somebody else"):
            save(store, 5, seed=2)
        assert {info.key: store.read(info.key) for info in store.list("commits/")} == before


class TestFailure:
    @pytest.mark.parametrize("broken", [0, 1])
    def test_if_one_rank_cannot_store_its_share_nothing_is_committed(self, tmp_path, broken):
        root = str(tmp_path / "run")
        answers = run_ranks(2, tmp_path, rankwork.failing_save, 2, root, broken)
        text = f"73 checkpoint step-00000006.inc-000001 was not stored: rank {broken}: cannot write: the disk is full."
        assert answers == [text, text]
        assert commits.list_checkpoints(LocalStore(root)) == []

    def test_old_checkpoints_go_only_after_the_commit(self, store):
        for step in (5, 10, 15, 20):
            save(store, step, seed=step, keep=2)
        assert [c.step for c in commits.list_checkpoints(store)] == [15, 20]
        assert equal(restored(store)[0], 20)
