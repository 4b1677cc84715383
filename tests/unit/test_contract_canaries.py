"""Nothing that a checkpoint or a run.yaml holds is ever run, wherever in them it stands.

The attacker controls all of storage here: digests and sizes of what is planted are right.
"""

from pathlib import Path

import pytest

from clip_testkit.canaries import REAL, payloads, texts
from clip_testkit.memorystore import MemoryStore
from clip_testkit.runyaml import MINIMAL
from clip_testkit.savedrun import STATE, save
from clipctl.cli import main
from clipctl.contract import commits, layout
from clipctl.contract.digest import canonical_json, sha256_hex
from clipctl.contract.errors import ClipError, CorruptError
from clipctl.contract.layout import CheckpointId
from clipctl.contract.manifest import Manifest, StoredObject
from clipctl.contract.share import Share
from clipctl.contract.store_local import LocalStore

NAMES = sorted(payloads(Path("/canary")))
TEXTS = sorted(texts(Path("/canary")))


@pytest.fixture
def canary(tmp_path):
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "something was run"


@pytest.fixture
def root(tmp_path):
    return tmp_path / "runs" / "demo"


def test_there_are_many():
    assert len(NAMES) >= 30


@pytest.mark.parametrize("name", sorted(REAL))
def test_they_are_real(tmp_path, name):
    """A careless reader runs them; otherwise the tests below would prove nothing."""
    path = tmp_path / "canary"
    REAL[name](payloads(path)[name])
    assert path.exists()


def commit(store, step, manifest):
    checkpoint = CheckpointId(step, 1)
    record = commits.CommitRecord(
        run="demo", step=step, incarnation=1, attempt=1, samples_consumed=0, world_size=1, bytes_total=1,
        manifest_sha256=sha256_hex(manifest), spec_digest="a", training_digest="b", parent=None, created_at=0.0,
        writer="x",
    )  # fmt: skip
    store.write(layout.manifest_key(checkpoint), manifest)
    store.write(layout.commit_key(checkpoint), record.to_bytes())


def plant(store, data):
    """A good checkpoint 5, and others in which `data` stands for everything that can be replaced."""
    text = data.decode("latin-1")
    save(store, 5)
    state = {**STATE, text[:200]: text, "run": text, "open_clip_config": {"model_cfg": {text[:50]: text}}}
    save(store, 6, state=state, writer=text, parent=text)
    store.write(layout.commit_key(CheckpointId(7, 1)), data)
    commit(store, 8, data)
    name = "weights-00000-of-00001.safetensors"
    store.write(layout.checkpoint_prefix(CheckpointId(9, 1)) + name, data)
    commit(store, 9, Manifest((StoredObject.of(name, data),), STATE).to_bytes())
    for key in ("LATEST", layout.incarnation_key(1), layout.incarnation_key(2), "status.json", "results.json"):
        store.write(key, data)


@pytest.mark.parametrize("name", NAMES)
class TestStorage:
    def test_no_command_runs_them(self, canary, root, tmp_path, capsys, name):
        """Whatever the commands say, they end in an orderly way."""
        plant(LocalStore(root), payloads(canary)[name])
        for arguments in (
            ["ls", f"{root}"],
            *(["inspect", f"{root}@{step}"] for step in (6, 7, 8, 9)),
            ["verify", f"{root}"],
            ["export", f"{root}@6", f"{tmp_path}/6"],
            ["export", f"{root}@9", f"{tmp_path}/9"],
            ["export", f"{root}@9", f"{tmp_path}/t", "--format", "open-clip"],
            ["diff", f"{root}@6", "@9"],
            ["prune", f"{root}", "--keep", "2", "--dry-run"],
        ):
            assert main(["checkpoints", *arguments]) in {0, 1, 64, 65}, arguments
        assert "Traceback" not in capsys.readouterr().err

    def test_the_parsers_refuse_them(self, canary, name):
        data = payloads(canary)[name]
        for parse in (commits.CommitRecord.from_bytes, Manifest.from_bytes, Share.from_bytes):
            with pytest.raises(CorruptError):
                parse(data)

    def test_resuming_passes_over_them(self, canary, name):
        store = MemoryStore()
        save(store, 5)
        commit(store, 9, payloads(canary)[name])
        assert commits.newest_verified(store, lambda rejection: None).step == 5


@pytest.mark.parametrize("name", TEXTS)
def test_as_a_run_yaml(canary, tmp_path, name):
    text = texts(canary)[name]
    for number, content in enumerate(
        (text, f"{MINIMAL}\nextra: {text}", MINIMAL.replace("s3://bucket/runs", text.strip()))
    ):
        path = tmp_path / f"run{number}.yaml"
        path.write_text(content)
        for command in (["render", str(path)], ["checkpoints", "ls", str(path)]):
            assert main(command) in {64, 66}


@pytest.mark.parametrize("name", NAMES)
def test_as_a_location_or_a_selector(canary, name):
    from clipctl.contract.resume_source import parse_resume_source

    text = payloads(canary)[name].decode("latin-1")
    for candidate in (text, f"/runs/demo@{text}", f"{text}@latest"):
        try:
            parse_resume_source(candidate)
        except ClipError:
            continue


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "/etc/passwd", "a/../../b", "..", "weights\x00", "~/x", "", "a b", "w\n", "x" * 300]
)
def test_names_of_objects_do_not_leave_the_checkpoint(root, name):
    stored = {**StoredObject.of("w", b"x").to_json(), "name": name}
    store = LocalStore(root)
    commit(store, 9, canonical_json({"version": 2, "state": STATE, "objects": [stored]}))
    with pytest.raises(CorruptError, match="not well-formed"):
        commits.verify(store, CheckpointId(9, 1))


@pytest.mark.parametrize("key", ["/etc/passwd", "a\x00b", "../x"])
def test_no_key_leaves_a_folder(root, key):
    for action in (LocalStore(root).read, LocalStore(root).delete, LocalStore(root).read_version):
        with pytest.raises(ClipError, match="leaves the store root"):
            action(key)
