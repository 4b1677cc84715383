"""What a user may call data: a location, several, a table, or the run.yaml that names them."""

import json

import pytest

from clip_testkit.runyaml import MINIMAL
from clipctl.contract.errors import MissingError, SpecError
from clipctl.contract.sections import DataSection
from clipctl.trainingdata import training_data


@pytest.mark.parametrize("target", ["shards", "s3://bucket/{0..9}.tar", "a::b", "pairs.tsv", "synthetic:100"])
def test_whatever_data_train_may_be(target):
    found = training_data(target)
    assert found.section == DataSection(train=target)
    assert found.run is None


def test_the_trainer_reads_the_same_section_back(tmp_path):
    (tmp_path / "run.yaml").write_text(MINIMAL)
    for found in (training_data("a::b", "clean"), training_data(str(tmp_path / "run.yaml"))):
        assert DataSection.model_validate_json(json.dumps(found.to_json())) == found.section


def test_a_run_yaml_brings_its_section(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    found = training_data(str(path))
    assert found.section == found.run.data
    assert found.run.model.name == "ViT-B-32"


def test_another_index(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(MINIMAL)
    assert training_data("shards", "clean").section.index == "clean"
    assert training_data(str(path), "clean").section.index == "clean"


@pytest.mark.parametrize(
    ("target", "index", "problem"),
    [
        ("pipe:cat a.tar", None, "runs a command"),
        ("synthetic:many", None, "how many samples"),
        ("a::", None, "empty source"),
        ("pairs.csv", "clean", "index is for shards"),
        ("shards", "no such name!", "should match pattern"),
    ],
)
def test_what_no_run_could_use(target, index, problem):
    with pytest.raises(SpecError, match=problem):
        training_data(target, index)


def test_a_run_yaml_that_is_missing(tmp_path):
    with pytest.raises(MissingError):
        training_data(str(tmp_path / "run.yaml"))
