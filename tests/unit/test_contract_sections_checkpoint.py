"""`checkpoint:` in run.yaml: what to keep, and what to begin with."""

import pytest
from pydantic import ValidationError

from clipctl.contract.resume_source import ResumeFile, ResumeRun
from clipctl.contract.retention import KeepPolicy
from clipctl.contract.sections.checkpoint import CheckpointSection


def section(**fields):
    return CheckpointSection.model_validate({"path": "s3://bucket/runs", **fields})


class TestKeep:
    def test_a_plain_number_is_the_newest(self):
        assert section().keep_policy == KeepPolicy(last=3)
        assert section(keep=7).keep_policy == KeepPolicy(last=7)

    def test_rules(self):
        assert section(keep={}).keep_policy == KeepPolicy(last=3)
        assert section(keep={"last": 2, "every": 500, "best": 1}).keep_policy == KeepPolicy(2, 500, 1)

    @pytest.mark.parametrize(
        "keep",
        [
            0,
            1,
            -1,
            True,
            "3",
            2.0,
            {"last": 1},
            {"last": 10_001},
            {"every": 0},
            {"best": -1},
            {"newest": 3},
            {"last": "3"},
            [],
        ],
    )
    def test_what_is_no_rule(self, keep):
        with pytest.raises(ValidationError):
            section(keep=keep)

    def test_a_plain_number_is_written_as_before(self):
        """It is part of a run's digest, which must not change with the release."""
        assert section(keep=3).model_dump()["keep"] == 3


class TestResumeFrom:
    @pytest.mark.parametrize(
        "text",
        [
            "epoch_3.pt",
            "/data/epoch_latest.pt",
            "s3://bucket/openclip/epoch_3.PT",
            "https://host/epoch_3.pt?download=true",
            "https://host/weights",
            "hf://org/model/epoch_3",
            "runs@home/epoch_3.pt",
        ],
    )
    def test_a_file_of_openclip(self, text):
        assert section(resume_from=text).resume_source == ResumeFile(text)

    @pytest.mark.parametrize(
        ("text", "root", "which"),
        [
            ("s3://bucket/runs/demo", "s3://bucket/runs/demo", "latest"),
            ("s3://bucket/runs/demo/", "s3://bucket/runs/demo", "latest"),
            ("/runs/demo@best", "/runs/demo", "best"),
            ("/runs/demo@1200", "/runs/demo", "1200"),
            ("file:///runs/demo@step-00001200.inc-000003", "file:///runs/demo", "step-00001200.inc-000003"),
            ("/runs/me@home/demo", "/runs/me@home/demo", "latest"),
            ("/runs/me@home@latest", "/runs/me@home", "latest"),
            ("/", "/", "latest"),
        ],
    )
    def test_another_run(self, text, root, which):
        assert section(resume_from=text).resume_source == ResumeRun(root, which)

    @pytest.mark.parametrize(
        "text", ["/runs/demo@", "/runs/demo@newest", "/runs/demo@-1", "@latest", "/r/d@1e3", "d@١"]
    )
    def test_what_names_no_checkpoint(self, text):
        with pytest.raises(ValidationError, match="is not the id of a checkpoint"):
            section(resume_from=text)

    def test_nothing(self):
        assert section().resume_source is None
