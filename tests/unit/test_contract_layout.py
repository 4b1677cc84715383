"""Keys: written and parsed alike, in numeric order when listed, and nothing else is mistaken for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipctl.contract import layout
from clipctl.contract.layout import CheckpointId

CHECKPOINTS = st.builds(CheckpointId, st.integers(0, 10**8 - 1), st.integers(0, 10**6 - 1))


@given(CHECKPOINTS)
def test_commit_keys_round_trip(checkpoint):
    assert layout.parse_commit_key(layout.commit_key(checkpoint)) == checkpoint
    assert layout.parse_checkpoint_id(str(checkpoint)) == checkpoint


@given(st.integers(0, 10**6 - 1))
def test_incarnation_keys_round_trip(number):
    assert layout.parse_incarnation_key(layout.incarnation_key(number)) == number


@given(st.lists(CHECKPOINTS, max_size=20))
def test_text_order_is_numeric_order(checkpoints):
    assert sorted(map(layout.commit_key, checkpoints)) == [layout.commit_key(c) for c in sorted(checkpoints)]
    assert sorted(map(layout.checkpoint_prefix, checkpoints)) == [
        layout.checkpoint_prefix(c) for c in sorted(checkpoints)
    ]


def test_numbers_wider_than_the_padding_are_still_parsed():
    wide = CheckpointId(10**9, 10**7)
    assert layout.parse_commit_key(layout.commit_key(wide)) == wide
    assert layout.parse_incarnation_key(layout.incarnation_key(10**7)) == 10**7


@pytest.mark.parametrize(
    "key",
    [
        "",
        "LATEST",
        "commits/step-1.inc-1.json",
        "commits/step-00000001.inc-000001.json.tmp",
        "commits/step-00000001.inc-000001",
        "xcommits/step-00000001.inc-000001.json",
        "commits/sub/step-00000001.inc-000001.json",
        "commits/step-0000000a.inc-000001.json",
        "commits/step--0000001.inc-000001.json",
        "commits/step-00000001.inc-000001.json\n",
        "commits/step-\u0660\u0660\u0660\u0660\u0660\u0660\u0660\u0661.inc-000001.json",
        "incarnations/000001.json",
    ],
)
def test_other_keys_are_no_commits(key):
    assert layout.parse_commit_key(key) is None


@pytest.mark.parametrize(
    "key", ["incarnations/1.json", "incarnations/000001.jsonl", "commits/000001.json", "incarnations/"]
)
def test_other_keys_are_no_incarnations(key):
    assert layout.parse_incarnation_key(key) is None


@pytest.mark.parametrize(
    "text", ["", "step-1", "latest", "step-00000001.inc-000001.json", "../step-00000001.inc-000001"]
)
def test_other_texts_are_no_checkpoints(text):
    assert layout.parse_checkpoint_id(text) is None


def test_the_grammar_is_what_the_documentation_says():
    checkpoint = CheckpointId(1200, 7)
    assert str(checkpoint) == "step-00001200.inc-000007"
    assert layout.commit_key(checkpoint) == "commits/step-00001200.inc-000007.json"
    assert layout.checkpoint_prefix(checkpoint) == "checkpoints/step-00001200/inc-000007/"
    assert layout.incarnation_key(7) == "incarnations/000007.json"
    assert layout.events_key(7, 3) == "events/inc-000007/000003.jsonl"
    assert layout.EXPORT == "export/"


@pytest.mark.parametrize("path", ["s3://bucket/runs", "s3://bucket/runs/", "s3://bucket/runs//"])
def test_the_run_root(path):
    assert layout.run_root(path, "demo") == "s3://bucket/runs/demo"


def test_checkpoints_sort_by_step_first():
    assert sorted([CheckpointId(2, 1), CheckpointId(1, 9), CheckpointId(1, 2)]) == [
        CheckpointId(1, 2),
        CheckpointId(1, 9),
        CheckpointId(2, 1),
    ]
