"""Taking a sample apart: the short way finds what the strict reader finds, and leaves it everything unusual."""

import contextlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_testkit.shards import tar_bytes
from clip_trainer.data.shards import sample as module
from clip_trainer.data.shards.sample import parse_sample
from clipctl.contract.errors import CorruptError

MEMBERS = [
    ("a/b.jpg", b"picture"),
    ("a/b.txt", b"caption"),
    ("a/b.json", b"{}"),
    ("a/b.pkl", b"code"),
    ("a/b.cls", b"3"),
]
KNOWN = {"jpg": b"picture", "txt": b"caption", "json": b"{}", "cls": b"3"}


def fragment(members, **options):
    """The members of an archive, without its end."""
    size = sum(512 + len(data) + -len(data) % 512 for _, data in members)
    return tar_bytes(members, **options)[:size]


@pytest.fixture
def strictly(monkeypatch):
    """Counts how often the strict reader is asked."""
    asked = []
    strict = module._strict_sample
    monkeypatch.setattr(module, "_strict_sample", lambda data, where: asked.append(1) or strict(data, where))
    return asked


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
def test_plain_samples_do_not_need_the_strict_reader(form, strictly):
    found = parse_sample(fragment(MEMBERS, format=form), "s.tar")
    assert (found.key, found.members) == ("a/b", KNOWN)
    assert not strictly


def test_members_that_belong_to_no_sample_are_passed_over(strictly):
    found = parse_sample(fragment([("README", b"x"), *MEMBERS, (".hidden", b"y")]), "s.tar")
    assert (found.key, found.members) == ("a/b", KNOWN)
    assert not strictly


@pytest.mark.parametrize("name", ["n" * 120 + "/b.jpg", "x/" * 60 + "b.jpg"])
@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_are_for_the_strict_reader(name, form, strictly):
    if form == tarfile.USTAR_FORMAT and name.startswith("n"):
        form = tarfile.PAX_FORMAT
    data = tar_bytes([(name, b"picture")], format=form)
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        end = tar.getmembers()[0].offset_data + 512
    found = parse_sample(data[:end], "s.tar")
    assert (found.key, found.members) == (name[: -len(".jpg")], {"jpg": b"picture"})
    assert strictly


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda data: data[:-512], "truncated"),
        (lambda data: data[:700], "truncated"),
        (lambda data: data + bytes(512), "empty block"),
        (lambda data: data[:257] + b"gnome" + data[262:], "no tar header"),
        (lambda data: data[:156] + b"2" + data[157:], "checksum"),
        (lambda data: data[:124] + b"7" * 11 + data[135:], "checksum"),
        (lambda data: data[:124] + b"9" * 11 + data[135:], "checksum|number"),
        (lambda data: b"\0" + data[1:], "checksum"),
        (lambda data: b"", "no sample"),
        (lambda data: data + fragment([("other.txt", b"x")]), "cuts through"),
    ],
)
def test_what_is_not_one_sample_is_refused(change, problem):
    with pytest.raises(CorruptError, match=problem):
        parse_sample(change(fragment(MEMBERS)), "s.tar")


names = st.text(st.sampled_from("ab./_é"), min_size=1, max_size=12)


@given(st.lists(st.tuples(names, st.binary(max_size=700)), min_size=1, max_size=5), st.binary(max_size=3), st.data())
def test_both_ways_agree_on_anything(members, noise, data):
    payload = bytearray(fragment(members, format=tarfile.USTAR_FORMAT))
    at = data.draw(st.integers(0, len(payload)))
    payload[at : at + len(noise)] = noise
    plain = module._plain_sample(bytes(payload))
    if plain is None:
        return
    # A damaged header may be taken for a sound one: that is what the index's check is for, which comes first.
    with contextlib.suppress(CorruptError):
        assert plain == module._strict_sample(bytes(payload), "s.tar")
