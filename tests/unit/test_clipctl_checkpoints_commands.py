"""`clipctl checkpoints inspect|diff|prune` and RUN@WHICH, through the command line."""

import json
import struct

import pytest

from clip_testkit import oldcheckpoint
from clip_testkit.runyaml import MINIMAL
from clip_testkit.savedrun import MOMENTS, WEIGHTS, damage, save
from clipctl.cli import main
from clipctl.contract import layout
from clipctl.contract.commits import list_checkpoints
from clipctl.contract.errors import ExitCode
from clipctl.contract.layout import CheckpointId
from clipctl.contract.store_local import LocalStore


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runs" / "demo"


@pytest.fixture
def store(root):
    return LocalStore(root)


@pytest.fixture
def clipctl(capsys):
    def run(*arguments, code=0):
        assert main(["checkpoints", *map(str, arguments)]) == code
        captured = capsys.readouterr()
        return captured.out, captured.err

    return run


@pytest.fixture
def asked(clipctl):
    def run(*arguments, code=0):
        return json.loads(clipctl(*arguments, "--json", code=code)[0])

    return run


def weights(**changes):
    return {"weights": {**WEIGHTS, **changes}, "optimizer": MOMENTS}


class TestWhich:
    @pytest.fixture(autouse=True)
    def three(self, store):
        for step, loss in ((10, 2.0), (20, 1.0), (30, 3.0)):
            save(store, step, metrics={"loss": loss})

    @pytest.mark.parametrize(
        ("which", "step"), [("latest", 30), ("best", 20), ("10", 10), ("step-00000020.inc-000001", 20)]
    )
    def test_every_command_takes_it(self, root, asked, which, step, tmp_path):
        wanted = str(CheckpointId(step, 1))
        target = f"{root}@{which}"
        assert asked("inspect", target)["id"] == wanted
        assert asked("verify", target) == [{"id": wanted, "ok": True, "problem": None}]
        assert asked("export", target, tmp_path / "out")["checkpoint"] == wanted
        assert asked("diff", target, f"@{which}")["first"] == wanted
        assert [item["id"] for item in asked("ls", target)] == [wanted]

    def test_the_option_says_the_same(self, root, asked):
        assert asked("inspect", root, "--checkpoint", "best") == asked("inspect", f"{root}@best")

    def test_a_run_yaml_may_be_followed_by_it(self, root, asked, tmp_path):
        path = tmp_path / "run.yaml"
        path.write_text(MINIMAL.replace("s3://bucket/runs", str(root.parent)))
        assert asked("inspect", f"{path}@10")["step"] == 10

    def test_a_directory_with_an_at_in_its_name(self, asked, tmp_path):
        save(LocalStore(tmp_path / "runs" / "me@10"), 5)
        assert asked("inspect", tmp_path / "runs" / "me@10")["step"] == 5

    def test_listing_a_step_shows_all_its_incarnations(self, root, store, asked):
        save(store, 20, 2)
        assert [item["incarnation"] for item in asked("ls", f"{root}@20")] == [2, 1]

    def test_verifying_the_best_does_not_pass_over_it(self, root, store, asked):
        damage(store, layout.manifest_key(CheckpointId(20, 1)))
        (found,) = asked("verify", f"{root}@best", code=ExitCode.CORRUPT)
        assert (found["id"], found["ok"]) == (str(CheckpointId(20, 1)), False)

    def test_exporting_the_best_passes_over_a_damaged_one_visibly(self, root, store, clipctl, tmp_path):
        damage(store, layout.manifest_key(CheckpointId(20, 1)))
        out, err = clipctl("export", f"{root}@best", tmp_path / "out")
        assert out.startswith(str(CheckpointId(10, 1)))
        assert f"REJECTED {CheckpointId(20, 1)}" in err

    def test_listing_shows_losses_and_parents(self, root, store, clipctl, asked):
        save(store, 40, metrics={}, parent="step-00000030.inc-000001")
        rows = clipctl("ls", root)[0].splitlines()
        assert rows[1].split()[-1] == "-"
        assert rows[2].split()[-1] == "3.0000"
        assert asked("ls", root)[0]["parent"] == "step-00000030.inc-000001"


class TestInspect:
    def test_all_there_is_to_know(self, root, store, asked):
        save(store, 10)
        save(store, 20, 2, parent="step-00000010.inc-000001", attempt=3, metrics={"loss": 0.5, "top1": 0.25})
        store.write("LATEST", b"step-00000020.inc-000002\n")
        found = asked("inspect", root)
        assert (found["id"], found["is_latest"], found["parent"]) == (
            "step-00000020.inc-000002", True, "step-00000010.inc-000001",
        )  # fmt: skip
        assert (found["attempt"], found["samples_consumed"], found["world_size"]) == (3, 1280, 1)
        assert found["metrics"] == {"loss": 0.5, "top1": 0.25}
        assert found["format_version"] == 2
        assert found["parts"]["weights"] == {
            "objects": 1, "bytes": found["parts"]["weights"]["bytes"], "tensors": 3, "elements": 10,
            "dtypes": {"F16": 1, "F32": 1, "I64": 1}, "sharded": 0,
        }  # fmt: skip
        assert found["state"]["train"] == {"step": 7, "samples_consumed": 448, "skipped": 0}
        assert found["bytes_total"] == sum(part["bytes"] for part in found["parts"].values())

    def test_what_is_long_in_the_state_is_counted(self, root, store, asked):
        state = {"guard": {"skipped": 1, "losses": [0.5] * 100}, "deep": {"a": {"b": 1}}, "name": "x", "list": [1]}
        save(store, 1, state=state)
        assert asked("inspect", root)["state"] == {"guard": {"skipped": 1, "losses": "100 values"}, "name": "x"}

    def test_as_text(self, root, store, clipctl):
        save(store, 10)
        out, _ = clipctl("inspect", root)
        assert "step-00000010.inc-000001" in out.splitlines()[0]
        assert "weights    3 tensors (1 F16, 1 F32, 1 I64), 10 elements" in out
        assert "  train      samples_consumed 448, skipped 0, step 7" in out

    def test_tensors_are_not_read(self, root, store, asked):
        checkpoint = save(store, 10)
        damage(store, layout.checkpoint_prefix(checkpoint) + "weights-00000-of-00001.safetensors")
        assert asked("inspect", root)["step"] == 10

    def test_a_damaged_record(self, root, store, clipctl):
        damage(store, layout.commit_key(save(store, 10)))
        assert "commit record" in clipctl("inspect", root, code=ExitCode.CORRUPT)[1]

    def test_the_old_format(self, root, store, asked, tmp_path):
        for key, data in oldcheckpoint.version_1().items():
            store.write(key, data)
        found = asked("inspect", root)
        assert (found["format_version"], found["parts"]["weights"]["tensors"], found["is_latest"]) == (1, 2, True)
        assert asked("verify", root)[0]["ok"]
        assert asked("export", root, tmp_path / "out")["checkpoint"] == found["id"]


class TestDiff:
    def test_the_same(self, root, store, asked, clipctl):
        save(store, 10)
        save(store, 20)
        found = asked("diff", f"{root}@10", "@20")
        assert (found["tensors"], found["same"], found["different"], found["differences"]) == (4, 4, 0, [])
        assert clipctl("diff", f"{root}@10", "@20")[0] == (
            "step-00000010.inc-000001 and step-00000020.inc-000001: 0 of 4 tensors differ\n"
        )

    def test_by_how_much(self, root, store, asked, clipctl):
        save(store, 10)
        moved = struct.pack("<6f", 0, 1, 2, 3, 4, 8)
        save(store, 20, parts=weights(**{"visual.w": ("F32", (2, 3), moved)}))
        (item,) = asked("diff", f"{root}@10", "@20", code=1)["differences"]
        assert (item["part"], item["name"], item["verdict"], item["max_abs"]) == ("weights", "visual.w", "changed", 3.0)
        assert item["relative"] == pytest.approx(3 / 55**0.5)
        out, _ = clipctl("diff", f"{root}@10", "@20", code=1)
        assert out.splitlines()[2].split() == ["weights", "visual.w", "changed", "3", "0.405"]

    def test_what_is_only_in_one_and_what_has_another_shape(self, root, store, asked):
        save(store, 10, parts=weights(extra=("F32", (), bytes(4)), wide=("F32", (2,), bytes(8))))
        save(store, 20, parts={**weights(wide=("F16", (4,), bytes(8))), "average": {"a": ("F32", (), bytes(4))}})
        found = {i["name"]: i["verdict"] for i in asked("diff", f"{root}@10", "@20", code=1)["differences"]}
        assert found == {"extra": "only in first", "a": "only in second", "wide": "reshaped"}

    def test_large_tensors_are_only_told_to_differ(self, root, store, asked):
        save(store, 10)
        save(store, 20, parts=weights(**{"visual.w": ("F32", (2, 3), b"\x01" * 24)}))
        (item,) = asked("diff", f"{root}@10", "@20", "--max-elements", "5", code=1)["differences"]
        assert (item["verdict"], item["max_abs"], item["relative"]) == ("changed", None, None)

    def test_other_objects_with_the_same_tensors(self, root, store, asked):
        """Another number of ranks, another order: what counts are the values."""
        save(store, 10)
        reordered = {"weights": dict(reversed(WEIGHTS.items())), "optimizer": MOMENTS}
        save(store, 20, parts=reordered, chunk_bytes=17)
        assert asked("diff", f"{root}@10", "@20")["different"] == 0

    def test_between_two_runs(self, root, store, asked, tmp_path):
        save(store, 10)
        save(LocalStore(tmp_path / "other"), 7)
        found = asked("diff", root, tmp_path / "other")
        assert (found["first"], found["second"]) == ("step-00000010.inc-000001", "step-00000007.inc-000001")

    def test_what_is_damaged_is_not_compared(self, root, store, clipctl):
        save(store, 10)
        damage(store, layout.checkpoint_prefix(save(store, 20)) + "weights-00000-of-00001.safetensors")
        _, err = clipctl("diff", f"{root}@10", "@step-00000020.inc-000001", code=ExitCode.CORRUPT)
        assert "REJECTED" in err


class TestPrune:
    @pytest.fixture(autouse=True)
    def six(self, store):
        for step in range(10, 70, 10):
            save(store, step, metrics={"loss": abs(step - 20.0)})

    def steps(self, store):
        return [c.step for c in list_checkpoints(store)]

    def test_by_number(self, root, store, asked):
        found = asked("prune", root, "--keep", "4")
        assert (len(found["kept"]), len(found["deleted"]), found["dry_run"]) == (4, 2, False)
        assert self.steps(store) == [30, 40, 50, 60]

    def test_a_dry_run_says_the_same_and_does_nothing(self, root, store, asked, clipctl):
        before = [info.key for info in store.list("")]
        found = asked("prune", root, "--keep", "4", "--dry-run")
        out, _ = clipctl("prune", root, "--keep", "4", "--dry-run")
        assert out.splitlines() == [f"would delete {identity}" for identity in found["deleted"]] + [
            "4 checkpoints stay"
        ]
        assert [info.key for info in store.list("")] == before

    def test_by_the_policy_of_the_run(self, root, store, asked, tmp_path):
        path = tmp_path / "run.yaml"
        policy = f"{root.parent}\n  keep: {{last: 2, every: 40, best: 1}}"
        path.write_text(MINIMAL.replace("s3://bucket/runs", policy))
        asked("prune", path)
        assert self.steps(store) == [20, 40, 50, 60]

    def test_orphans_and_unfinished_writes(self, root, store, clipctl):
        import os

        for number in (1, 2):
            store.write(layout.incarnation_key(number), b'{"created_at":1000.0}')
        store.write(layout.checkpoint_prefix(CheckpointId(65, 1)) + "weights-0", b"rest")
        staged = root / "checkpoints" / ".tmp-abc"
        staged.write_bytes(b"half")
        clipctl("prune", root, "--keep", "9")
        assert staged.exists()  # a writer may still be at it
        os.utime(staged, (1000, 1000))
        store.write(layout.checkpoint_prefix(CheckpointId(65, 1)) + "weights-0", b"rest")
        out, _ = clipctl("prune", root, "--keep", "9", "--orphans-older-than", "30m")
        assert out.splitlines() == [
            "deleted 1 objects (4 B) of saves that were never committed",
            "deleted 1 unfinished uploads",
            "6 checkpoints stay",
        ]
        assert not staged.exists()
        assert store.list("checkpoints/step-00000065") == []

    def test_nothing_goes_unless_two_intact_ones_stay(self, root, store, clipctl):
        for step in range(10, 60, 10):
            damage(store, layout.manifest_key(CheckpointId(step, 1)))
        out, err = clipctl("prune", root, "--keep", "2")
        assert out == "6 checkpoints stay\n"
        assert err.count("REJECTED") == 5

    @pytest.mark.parametrize("time", ["", "1w", "-1h", "1.5h", "h", "1 h"])
    def test_times_that_are_none(self, root, clipctl, time):
        assert "length of time" in clipctl("prune", root, "--keep", "2", "--orphans-older-than", time, code=64)[1]

    def test_fewer_than_two_cannot_be_asked_for(self, root, clipctl, store):
        clipctl("prune", root, "--keep", "1", code=ExitCode.USAGE)
        assert len(self.steps(store)) == 6
