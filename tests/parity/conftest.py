"""The oracle of the long parity tests: open_clip_torch 3.3.0, imported only where a test asks for it."""

import os

import pytest


@pytest.fixture(scope="session")
def open_clip():
    os.environ["HF_HUB_OFFLINE"] = "1"
    import open_clip

    assert open_clip.__version__ == "3.3.0"
    return open_clip
