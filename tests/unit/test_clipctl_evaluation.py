"""`clipctl eval`: what is asked of the trainer, and what is shown. No torch here."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy as safetensors

from clip_testkit.runyaml import MINIMAL
from clipctl import evaluation, trainerprocess
from clipctl.cli import main
from clipctl.contract import layout
from clipctl.contract.commits import CommitRecord, Manifest, StoredObject
from clipctl.contract.digest import sha256_hex
from clipctl.contract.errors import CannotCreateError, ExitCode, MissingError, SpecError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.sections import EvalSection
from clipctl.contract.store_local import LocalStore
from clipctl.evaluation import Questions, Subject, append, metrics, request_of
from clipctl.evaluationsubject import Choice, find_subject

ANSWER = {"results": {"retrieval": {"clip_val_loss": 2.5, "num_samples": 7}}, "processes": 1, "device": "cpu"}


def commit(store, step, incarnation=1, *, average=False):
    """A checkpoint whose weights are filled with the step, and whose averaged weights with the step + 0.5."""
    checkpoint = CheckpointId(step, incarnation)
    values = {"weights": float(step), **({"average": step + 0.5} if average else {})}
    objects = []
    for part, value in values.items():
        name, data = f"{part}-00000-of-00001.safetensors", safetensors.save({"w": np.full(3, value, np.float32)})
        store.write(layout.checkpoint_prefix(checkpoint) + name, data)
        objects.append(StoredObject.of(name, data))
    manifest = Manifest(tuple(objects), {"open_clip_config": {"model_cfg": {}}}).to_bytes()
    store.write(f"{layout.checkpoint_prefix(checkpoint)}manifest.json", manifest)
    record = CommitRecord(
        run="demo", step=step, incarnation=incarnation, attempt=1, samples_consumed=step * 64, world_size=2,
        manifest_sha256=sha256_hex(manifest), bytes_total=sum(o.size for o in objects), spec_digest="d",
        training_digest="t", parent=None, created_at=1000.0, writer="test",
    )  # fmt: skip
    store.create(layout.commit_key(checkpoint), record.to_bytes())


@pytest.fixture
def root(tmp_path):
    """The root of a run with checkpoints of steps 3 and 6."""
    store = LocalStore(tmp_path / "runs" / "demo")
    commit(store, 3)
    commit(store, 6, 1)
    commit(store, 6, 2, average=True)
    return tmp_path / "runs" / "demo"


@pytest.fixture
def scratch(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


@pytest.fixture
def asked(monkeypatch):
    """The requests that would go to the trainer."""
    requests = []

    def run_trainer(module, arguments):
        assert module == "clip_trainer.eval.command"
        requests.append(json.loads(Path(arguments[0]).read_text()))
        return ANSWER

    monkeypatch.setattr(trainerprocess, "run_trainer", run_trainer)
    return requests


def weights_of(subject):
    path = Path(subject.model.removeprefix("local-dir:")) / "open_clip_model.safetensors"
    return float(safetensors.load(path.read_bytes())["w"][0])


class TestSubject:
    def test_a_name_with_weights(self, scratch):
        found = find_subject("ViT-B-32", scratch, Choice(pretrained="laion2b_s34b_b79k"))
        assert found == Subject("ViT-B-32 laion2b_s34b_b79k", "ViT-B-32", "laion2b_s34b_b79k")

    def test_a_name_without_weights(self, scratch):
        with pytest.raises(MissingError, match="ViT-B-32 is a model without weights") as caught:
            find_subject("ViT-B-32", scratch, Choice())
        assert "--pretrained" in caught.value.hint

    def test_a_directory(self, tmp_path, scratch):
        (tmp_path / "open_clip_config.json").write_text("{}")
        assert find_subject(str(tmp_path), scratch, Choice()).model == f"local-dir:{tmp_path}"

    @pytest.mark.parametrize("target", ["local-dir:somewhere", "hf-hub:org/repo"])
    def test_a_place_in_words_of_open_clip(self, target, scratch):
        assert find_subject(target, scratch, Choice()) == Subject(target, target)

    def test_the_newest_checkpoint_with_averaged_weights(self, root, scratch):
        found = find_subject(str(root), scratch, Choice())
        assert found.checkpoint == "step-00000006.inc-000002"
        assert weights_of(found) == 6.5

    def test_the_trained_weights_of_it(self, root, scratch):
        assert weights_of(find_subject(str(root), scratch, Choice(raw_weights=True))) == 6.0

    def test_a_checkpoint_by_step(self, root, scratch):
        found = find_subject(str(root), scratch, Choice(step=3))
        assert (found.checkpoint, weights_of(found)) == ("step-00000003.inc-000001", 3.0)

    def test_the_newest_that_verifies(self, root, scratch, capsys):
        damaged = root / "checkpoints/step-00000006/inc-000002/weights-00000-of-00001.safetensors"
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
        assert find_subject(str(root), scratch, Choice()).checkpoint == "step-00000006.inc-000001"
        assert "REJECTED step-00000006.inc-000002" in capsys.readouterr().err

    def test_a_step_without_checkpoint(self, root, scratch):
        with pytest.raises(MissingError, match="no checkpoint of step 4") as caught:
            find_subject(str(root), scratch, Choice(step=4))
        assert caught.value.hint == "There are: 3, 6."

    def test_a_run_that_stored_nothing(self, tmp_path, scratch):
        with pytest.raises(MissingError, match="does not exist"):
            find_subject(str(tmp_path / "no" / "where"), scratch, Choice())
        with pytest.raises(MissingError, match="no checkpoint"):
            find_subject(str(tmp_path), scratch, Choice())

    def test_step_and_pretrained_contradict(self, scratch):
        with pytest.raises(SpecError, match="--step"):
            find_subject("ViT-B-32", scratch, Choice(pretrained="x", step=1))


class TestQuestions:
    def test_zero_shot_and_retrieval(self):
        asked = Questions(data="a", classes="imagenet", templates=("simple",), retrieval="b", captions="first")
        assert asked.section(None) == EvalSection.model_validate(
            {
                "zero_shot": {"data": "a", "classes": "imagenet", "templates": "simple"},
                "retrieval": {"data": "b", "captions": "first"},
            }
        )

    @pytest.mark.parametrize(
        ("given", "wanted"),
        [
            ({"classes": "cat, dog"}, {"classes": ("cat", "dog")}),
            ({"classes": "x/names.json"}, {"classes": "x/names.json"}),
            ({"classes": "a,b", "templates": ("p.json",)}, {"templates": "p.json"}),
            ({"classes": "a,b", "templates": ("a {}", "the {}")}, {"templates": ("a {}", "the {}")}),
            ({"classes": "a,b", "templates": ("a {}",)}, {"templates": ("a {}",)}),
        ],
    )
    def test_names_files_and_lists(self, given, wanted):
        section = Questions(folder="f", **given).section(None).zero_shot
        assert {name: getattr(section, name) for name in wanted} == wanted

    def test_without_options_the_runs_own_section(self):
        own = EvalSection.model_validate({"retrieval": {"data": "x"}})
        assert Questions().section(own) is own
        assert Questions(retrieval="y").section(own).retrieval.data == "y"

    @pytest.mark.parametrize(
        ("options", "problem"),
        [
            ({}, "nothing to evaluate on"),
            ({"classes": "imagenet"}, "need images"),
            ({"data": "x"}, "need --classes"),
            ({"data": "x", "classes": "a"}, r"zero_shot\.classes"),
            ({"data": "x", "folder": "y", "classes": "a,b"}, "exactly one"),
            ({"data": "x", "classes": "a,b", "templates": ("a {}", "b")}, r"zero_shot\.templates.*has no"),
            ({"retrieval": "x", "captions": "some"}, r"retrieval\.captions"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, options, problem):
        for default in (None, EvalSection()):
            with pytest.raises(SpecError, match=problem):
                Questions(**options).section(default)

    def test_an_unknown_device(self):
        with pytest.raises(SpecError, match="no device 'tpu'"):
            request_of(Subject("a", "a"), EvalSection(), precision="fp32", device="tpu", processes=1)


class TestCommand:
    def test_table(self, root, asked, capsys):
        assert main(["eval", str(root), "--retrieval", "pairs", "--loss-batch", "32", "--nproc", "2"]) == 0
        (request,) = asked
        assert request["model"].startswith("local-dir:")
        assert (request["pretrained"], request["precision"], request["processes"]) == (None, "fp32", 2)
        assert request["eval"]["retrieval"] == {
            "data": "pairs",
            "columns": None,
            "captions": "all",
            "loss_batch": 32,
            "every": None,
        }
        head, _, loss, samples = capsys.readouterr().out.splitlines()
        assert head == f"{root} step-00000006.inc-000002 on 1 x cpu, fp32"
        assert loss.split() == ["retrieval", "clip_val_loss", "2.5000"]
        assert samples.split() == ["retrieval", "num_samples", "7"]

    def test_json_and_jsonl(self, root, asked, capsys, tmp_path):
        out = tmp_path / "results.jsonl"
        for step in ("3", "6"):
            command = ["eval", str(root), "--retrieval", "pairs", "--step", step, "--json", "--out", str(out)]
            assert main(command) == 0
        shown = json.loads(capsys.readouterr().out.split("\n}\n")[0] + "}")
        lines = [json.loads(line) for line in out.read_text().splitlines()]
        assert [line["checkpoint"] for line in lines] == ["step-00000003.inc-000001", "step-00000006.inc-000002"]
        assert lines[0].pop("time") > 0
        assert lines[0] == shown
        assert shown["results"] == ANSWER["results"]

    def test_a_run_yaml_brings_its_data_and_precision(self, root, asked, tmp_path):
        text = MINIMAL.replace("s3://bucket/runs", str(root.parent)) + "eval:\n  retrieval:\n    data: held-out\n"
        (tmp_path / "run.yaml").write_text(text)
        assert main(["eval", str(tmp_path / "run.yaml")]) == 0
        assert asked[0]["eval"]["retrieval"]["data"] == "held-out"
        assert asked[0]["precision"] == "amp_bf16"

    def test_errors_have_their_exit_codes(self, root, asked, capsys):
        assert main(["eval", str(root)]) == ExitCode.USAGE
        assert main(["eval", str(root), "--retrieval", "x", "--step", "4"]) == ExitCode.MISSING
        assert main(["eval", str(root), "--retrieval", "x", "--out", str(root)]) == ExitCode.CANNOT_CREATE
        assert asked  # only the last one came as far as the trainer
        assert len(asked) == 1
        assert "Traceback" not in capsys.readouterr().err


def test_metrics_of_nested_results():
    results = {"zero_shot": {"top1": 0.5}, "zero_shot_sets": {"v2": {"top1": 0.25}}}
    assert list(metrics(results)) == [("zero_shot", "top1", 0.5), ("zero_shot_sets.v2", "top1", 0.25)]


def test_a_file_that_cannot_be_written(tmp_path):
    with pytest.raises(CannotCreateError, match="cannot be written"):
        append(str(tmp_path / "no" / "where.jsonl"), {})


def test_the_request_is_read_back_by_the_trainers_section(tmp_path, monkeypatch):
    """What is written is strict JSON of the section, so the trainer sees the same one."""
    section = Questions(folder="f", classes="a,b", retrieval="r").section(None)
    request = request_of(Subject("a", "a"), section, precision="fp32", device="cpu", processes=1)
    monkeypatch.setattr(trainerprocess, "run_trainer", lambda module, arguments: {"path": arguments[0]})
    path = evaluation.run(request, tmp_path)["path"]
    assert EvalSection.model_validate_json(json.dumps(json.loads(Path(path).read_text())["eval"])) == section
