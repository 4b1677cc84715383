"""Whatever goes wrong on the way, in whatever order: the file is right, or there is none and the reason is told."""

import hashlib
import shutil
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from clip_testkit.fetching import fetch_settings
from clip_testkit.weightserver import Fault, WeightServer, serving
from clip_trainer.pretrained.digests import Expected
from clip_trainer.pretrained.download import download
from clip_trainer.pretrained.fetching import WEIGHTS, Fetcher
from clip_trainer.pretrained.httpclient import HttpClient
from clip_trainer.pretrained.origins import HttpOrigin
from clipctl.contract.errors import ClipError, CorruptError, UnavailableError

CONTENT = bytes(range(256)) * 40
SHA256 = hashlib.sha256(CONTENT).hexdigest()
DAMAGED = b"?" + CONTENT[1:]

faults = st.one_of(
    st.builds(Fault, status=st.sampled_from([408, 429, 500, 503])),
    st.builds(Fault, cut_after=st.integers(0, len(CONTENT) - 1)),
)


@settings(max_examples=40)
@given(st.lists(faults, max_size=6), st.booleans(), st.booleans(), st.booleans())
def test_any_sequence_of_passing_faults_ends_with_the_right_file(sequence, ranges, has_etag, damaged):
    with serving() as server, tempfile.TemporaryDirectory() as folder:
        etag = '"v"' if has_etag else None
        server.add("/f", DAMAGED if damaged else CONTENT, etag=etag, ranges=ranges, faults=list(sequence))
        environment = fetch_settings(Path(folder), server, give_up_after=10_000.0)
        target = Path(folder) / "out" / "f"
        told = []
        try:
            download(
                HttpOrigin(HttpClient(environment), f"{server.url}/f"),
                target,
                Expected(sha256=SHA256),
                environment,
                told.append,
            )
        except CorruptError:
            assert damaged
            assert list(target.parent.iterdir()) == []
        else:
            assert not damaged
            assert target.read_bytes() == CONTENT
            assert [path.name for path in target.parent.iterdir()] == ["f"]
            assert told[-1].done == len(CONTENT)
        assert server.files["/f"].faults == []


@settings(max_examples=25)
@given(st.lists(st.lists(faults, min_size=1, max_size=3), min_size=1, max_size=4), st.data())
def test_processes_that_give_up_one_after_the_other_leave_nothing_wrong(attempts, data):
    """Each process dies of impatience somewhere; the source may change in between; the last one gets the file."""
    with serving() as server, tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "f"
        for sequence in attempts:
            old = data.draw(st.booleans(), label="the source still has an older file")
            server.add("/f", DAMAGED if old else CONTENT, etag='"old"' if old else '"new"')
            server.files["/f"].faults = [*sequence, *[Fault(status=503)] * 50]
            environment = fetch_settings(Path(folder), server, give_up_after=1.0)
            try:
                download(
                    HttpOrigin(HttpClient(environment), f"{server.url}/f"),
                    target,
                    Expected(sha256=SHA256),
                    environment,
                )
            except (UnavailableError, CorruptError):
                assert not target.exists()
        server.add("/f", CONTENT, etag='"new"')
        environment = fetch_settings(Path(folder), server)
        origin = HttpOrigin(HttpClient(environment), f"{server.url}/f")
        assert download(origin, target, Expected(sha256=SHA256), environment) == SHA256
        assert target.read_bytes() == CONTENT


class HubModel(RuleBasedStateMachine):
    """The hub's cache against what it should be: a map from (revision, file) to bytes."""

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.server = WeightServer()
        self.server.start()
        self.published = {}  # file name -> bytes that `main` has now
        self.known = {}  # file name -> bytes that the cache should give for `main`
        self.commit = 0

    def teardown(self):
        self.server.stop()
        shutil.rmtree(self.folder)

    def fetcher(self, *, refresh=False, offline=False):
        return Fetcher(fetch_settings(self.folder, self.server, offline=offline), refresh=refresh)

    @initialize()
    def begin(self):
        self.publish("config.json", b"first")

    @rule(name=st.sampled_from(["config.json", WEIGHTS[0]]), content=st.sampled_from([b"first", b"second", b"third"]))
    def publish(self, name, content):
        self.commit += 1
        self.published[name] = content
        for each, data in self.published.items():
            self.server.add_hub_file("org/model", each, data, large=each != "config.json", commit=f"{self.commit:040x}")

    @rule(name=st.sampled_from(["config.json", WEIGHTS[0]]), refresh=st.booleans())
    def fetch(self, name, refresh):
        try:
            found = self.fetcher(refresh=refresh).file("org/model", name).read_bytes()
        except ClipError:
            assert name not in self.published
            return
        if refresh or name not in self.known:
            # `main` now means the newest commit; what it meant for the other file may be gone with that.
            self.known = {each: data for each, data in self.known.items() if self.published.get(each) == data}
            self.known[name] = self.published[name]
        assert found == self.known[name]

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def damage(self, data):
        name = data.draw(st.sampled_from(sorted(self.known)))
        try:
            path = self.fetcher(offline=True).file("org/model", name)
        except ClipError:
            return
        path.resolve().write_bytes(b"damaged")
        del self.known[name]
        self.known = {each: kept for each, kept in self.known.items() if kept != self.published.get(name)}

    @invariant()
    def offline_gives_what_is_known_or_nothing(self):
        before = len(self.server.requests)
        for name in ("config.json", WEIGHTS[0]):
            try:
                found = self.fetcher(offline=True).file("org/model", name).read_bytes()
            except ClipError:
                continue
            assert found in (b"first", b"second", b"third")
            if name in self.known:
                assert found == self.known[name]
        assert len(self.server.requests) == before

    @invariant()
    def nothing_but_finished_files_is_left(self):
        names = [path.name for path in self.folder.rglob("*")]
        assert not [name for name in names if name.endswith((".part", ".part.json")) or name.startswith(".tmp-")]


TestHubModel = HubModel.TestCase
TestHubModel.settings = settings(max_examples=15, stateful_step_count=12)
