"""What `checkpoint.resume_from` names: a training checkpoint of OpenCLIP, or a checkpoint of another run of clipctl."""

from __future__ import annotations

from dataclasses import dataclass

from clipctl.contract.checkpoint_selector import LATEST, split_target

_FILES = (".pt", ".pth", ".bin", ".ckpt", ".safetensors")
_RUN_SCHEMES = ("", "file", "s3")


@dataclass(frozen=True)
class ResumeFile:
    """A training checkpoint of OpenCLIP (`epoch_K.pt`): path or URL."""

    location: str


@dataclass(frozen=True)
class ResumeRun:
    """A checkpoint of another run.

    Attributes:
        root: path or URL of the run, `<checkpoint.path>/<name>`.
        which: see `checkpoint_selector`.
    """

    root: str
    which: str = LATEST


def parse_resume_source(text: str) -> ResumeFile | ResumeRun:
    """Tell the two apart: a file has the ending of one, or comes by http(s); everything else is a run.

    Raises:
        SpecError: `@` is followed by something that names no checkpoint.
    """
    scheme, separator, _ = text.partition("://")
    path = text.partition("?")[0] if separator else text
    if path.lower().endswith(_FILES) or (separator and scheme.lower() not in _RUN_SCHEMES):
        return ResumeFile(text)
    root, which = split_target(text)
    return ResumeRun(root.rstrip("/") or "/", which or LATEST)
