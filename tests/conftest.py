"""Settings that all tests share."""

import pytest
from hypothesis import HealthCheck, settings

# Derandomised: a failure seen once is seen by everybody. No deadline: machines are busy, and timing is not the subject.
settings.register_profile(
    "clipctl", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("clipctl")


@pytest.fixture(autouse=True, scope="module")
def _no_foreign_models():
    """Names that a module's tests give to configurations end with it: others compare the list of all names."""
    from clip_trainer.model import config_catalogue

    before = dict(config_catalogue._added)
    yield
    config_catalogue._added.clear()
    config_catalogue._added.update(before)


@pytest.fixture(autouse=True)
def _no_foreign_settings(monkeypatch, tmp_path_factory):
    """Nothing that the developer's shell or home directory says may change a result."""
    for name in ("CLIPCTL_ATTEMPT", "CLIPCTL_DEBUG", "CLIPCTL_PROGRESS_FILE", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
