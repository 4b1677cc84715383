"""What a worker reads from its environment."""

import pytest

from clip_trainer.elastic.member_settings import MemberSettings, parse_endpoint
from clipctl.contract.errors import SpecError

FULL = {
    "CLIPCTL_COORDINATOR": "run-rdzv:29400",
    "CLIPCTL_RUN_ID": "run-3",
    "CLIPCTL_MEMBER": "node-b/1#4",
    "CLIPCTL_NODE": "node-b",
    "CLIPCTL_SLOT": "1",
    "CLIPCTL_MIN_MEMBERS": "2",
    "CLIPCTL_MAX_MEMBERS": "6",
    "CLIPCTL_LAST_CALL_SECONDS": "0.5",
    "CLIPCTL_RENDEZVOUS_SECONDS": "20",
    "LOCAL_RANK": "3",
}


def test_every_variable_is_read():
    settings = MemberSettings.from_environment(FULL)
    assert settings == MemberSettings(("run-rdzv", 29400), "run-3", "node-b/1#4", "node-b", 1, 2, 6, 0.5, 20.0, 3)


def test_little_is_needed():
    settings = MemberSettings.from_environment({"CLIPCTL_COORDINATOR": "c:1", "CLIPCTL_MEMBER": "n/2#0"})
    assert (settings.run, settings.node, settings.slot) == ("none", "n", 0)
    assert (settings.min_members, settings.max_members) == (1, 1)
    assert (settings.last_call, settings.seconds) == (1.0, 300.0)


def test_the_slot_is_also_the_local_rank_and_the_other_way_round():
    base = {"CLIPCTL_COORDINATOR": "c:1", "CLIPCTL_MEMBER": "n/2#0"}
    assert MemberSettings.from_environment({**base, "CLIPCTL_SLOT": "2"}).local_rank == 2
    assert MemberSettings.from_environment({**base, "LOCAL_RANK": "2"}).slot == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"CLIPCTL_MEMBER": ""}, "CLIPCTL_MEMBER is not"),
        ({"CLIPCTL_COORDINATOR": "nowhere"}, "HOST:PORT"),
        ({"CLIPCTL_SLOT": "a"}, "CLIPCTL_SLOT is 'a'"),
        ({"CLIPCTL_MIN_MEMBERS": "0"}, "least <= most"),
        ({"CLIPCTL_MIN_MEMBERS": "7"}, "least <= most"),
        ({"CLIPCTL_LAST_CALL_SECONDS": "-1"}, "CLIPCTL_LAST_CALL_SECONDS is '-1'"),
        ({"CLIPCTL_RENDEZVOUS_SECONDS": "nan"}, "CLIPCTL_RENDEZVOUS_SECONDS is 'nan'"),
        ({"CLIPCTL_RENDEZVOUS_SECONDS": "soon"}, "'soon'"),
    ],
)
def test_what_makes_no_sense_is_named(changes, words):
    with pytest.raises(SpecError, match=words):
        MemberSettings.from_environment({**FULL, **changes})


@pytest.mark.parametrize(
    ("text", "pair"), [("a:1", ("a", 1)), ("[::1]:65535", ("::1", 65535)), ("10.1.1.1:80", ("10.1.1.1", 80))]
)
def test_an_endpoint_is_host_and_port(text, pair):
    assert parse_endpoint(text) == pair


@pytest.mark.parametrize("text", ["", "a", ":1", "a:", "a:0", "a:65536", "a:x"])
def test_other_endpoints_are_refused(text):
    with pytest.raises(SpecError, match="HOST:PORT"):
        parse_endpoint(text)
