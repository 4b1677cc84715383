import pytest

from clip_testkit.helmparity import MATRIX, helm_binary, rendered_by_both

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("overrides", MATRIX)
def test_embedded_helm_and_the_binary_give_equal_bytes(overrides):
    program = helm_binary()
    assert program is not None, "no helm binary: `make cluster-up` builds one"
    embedded, binary = rendered_by_both(overrides, program)
    assert embedded == binary
