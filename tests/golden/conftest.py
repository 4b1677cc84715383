"""The oracle of the parity tests: open_clip_torch 3.3.0, imported only where a test asks for it."""

import os
import sys

import pytest


@pytest.fixture(autouse=True, scope="module")
def _no_foreign_models_of_the_oracle():
    """As with our own: `open_clip.add_model_config` has no way back."""
    yield
    if "open_clip" in sys.modules:
        factory = sys.modules["open_clip"].factory
        if factory._MODEL_CONFIG_PATHS[1:]:
            del factory._MODEL_CONFIG_PATHS[1:]  # the first one is its own
            factory._MODEL_CONFIGS.clear()
            factory._rescan_model_configs()


@pytest.fixture(scope="session")
def open_clip():
    os.environ["HF_HUB_OFFLINE"] = "1"
    import open_clip

    assert open_clip.__version__ == "3.3.0"
    return open_clip


@pytest.fixture(scope="session")
def oracle_model(open_clip):
    """Make OpenCLIP's model for one of our configurations."""

    def make(config, **options):
        from open_clip.model import CLIP

        return CLIP(**config.to_dict(), **options)

    return make
