"""Images of the test cluster: archives, stores, names and build configuration."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from clip_testkit.cluster import baseimage, buildah, installconfig, ociarchive, projectimage, scratchimage
from clip_testkit.cluster.settings import Settings

LAYERS = {ociarchive.digest(data): data for data in (b"one" * 700, b"two")}


def manifest(*digests, size=None):
    layers = [{"digest": d, "size": len(LAYERS[d]) if size is None else size} for d in digests]
    return json.dumps({"config": {"digest": ociarchive.digest(b"{}")}, "layers": layers}).encode()


def write(out, text, present=()):
    def copy_layer(digest, stream):
        for byte in (LAYERS[digest][:5], LAYERS[digest][5:]):
            stream.write(byte)

    return ociarchive.write_archive(out, "localhost/a:1", text, b"{}", present, copy_layer)


def members(data):
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {info.name: archive.extractfile(info).read() for info in archive}


def test_archive_holds_manifest_config_and_layers_by_digest():
    out = io.BytesIO()
    text = manifest(*LAYERS)
    size = write(out, text)
    found = members(out.getvalue())
    blobs = {name: data for name, data in found.items() if name.startswith("blobs/")}
    assert size == sum(map(len, blobs.values()))
    assert set(blobs.values()) == {text, b"{}", *LAYERS.values()}
    for name, data in blobs.items():
        assert name == f"blobs/sha256/{hashlib.sha256(data).hexdigest()}"
    [entry] = json.loads(found["index.json"])["manifests"]
    assert entry["digest"] == ociarchive.digest(text)
    assert entry["annotations"]["io.containerd.image.name"] == "localhost/a:1"


def test_archive_leaves_out_what_the_importer_has():
    out = io.BytesIO()
    first, second = LAYERS
    write(out, manifest(*LAYERS), present={first})
    names = members(out.getvalue())
    assert ociarchive.blob_name(first) not in names
    assert ociarchive.blob_name(second) in names


def test_manifest_and_config_are_sent_even_if_present():
    out = io.BytesIO()
    text = manifest()
    write(out, text, present={ociarchive.digest(text), ociarchive.digest(b"{}")})
    assert set(members(out.getvalue()).values()) >= {text, b"{}"}


def test_repeated_layer_is_written_once():
    digest = next(iter(LAYERS))
    out = io.BytesIO()
    write(out, manifest(digest, digest))
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        assert archive.getnames().count(ociarchive.blob_name(digest)) == 1


@pytest.mark.parametrize("size", [0, 1, 4096])
def test_layer_of_another_length_is_an_error(size):
    with pytest.raises(ValueError, match="the manifest says"):
        write(io.BytesIO(), manifest(next(iter(LAYERS)), size=size))


def test_archive_needs_no_seekable_stream():
    class Pipe(io.RawIOBase):
        written = b""

        def writable(self):
            return True

        def write(self, data):
            self.written += bytes(data)
            return len(data)

    pipe = Pipe()
    write(pipe, manifest(*LAYERS))
    assert len(members(pipe.written)) == 6


def test_scratch_image_holds_the_binary_and_runs_it(tmp_path):
    binary = tmp_path / "program"
    binary.write_bytes(b"\x7fELF")
    archives = []
    for name in ("a.tar", "b.tar"):
        scratchimage.write_image(tmp_path / name, "localhost/p:1", binary, "/bin/program")
        archives.append((tmp_path / name).read_bytes())
    assert archives[0] == archives[1]
    found = members(archives[0])
    index = json.loads(found["index.json"])
    document = json.loads(found[ociarchive.blob_name(index["manifests"][0]["digest"])])
    config = json.loads(found[ociarchive.blob_name(document["config"]["digest"])])
    layer = found[ociarchive.blob_name(document["layers"][0]["digest"])]
    assert config["config"]["Entrypoint"] == ["/bin/program"]
    assert config["rootfs"]["diff_ids"] == [ociarchive.digest(layer)]
    with tarfile.open(fileobj=io.BytesIO(layer)) as inner:
        [info] = inner.getmembers()
        assert (info.name, info.mode) == ("bin/program", 0o755)
        assert inner.extractfile(info).read() == b"\x7fELF"


def test_layers_are_ordered_from_the_base():
    layers = [{"id": "top", "parent": "mid"}, {"id": "base"}, {"id": "mid", "parent": "base"}]
    assert buildah.layer_chain(layers, "top") == ["base", "mid", "top"]


def test_only_images_that_keep_a_superseded_big_layer_are_stale():
    layers = [
        {"id": "base", "diff-size": 10},
        {"id": "old", "parent": "base", "diff-size": 900},
        {"id": "new", "parent": "base", "diff-size": 900},
        {"id": "thin", "parent": "new", "diff-size": 1},
        {"id": "odd", "parent": "base"},
    ]
    images = [
        {"id": "project", "layer": "thin", "names": ["p"]},
        {"id": "cached-new", "layer": "new"},
        {"id": "cached-old", "layer": "old"},
        {"id": "cached-small", "layer": "odd"},
        {"id": "empty"},
    ]
    assert buildah.stale_images(images, layers, big=500) == ["cached-old"]
    assert buildah.stale_images(images[1:], layers, big=500) == ["cached-new", "cached-old"]


def test_buildah_uses_a_store_of_its_own():
    words = [str(word) for word in buildah.command(Settings(Path("/c"), Path("/c/s")), "images")]
    assert words[:3] == ["buildah", "--root", "/c/buildah"]
    assert words[-1] == "images"


def test_base_image_is_named_by_its_contents(monkeypatch):
    before = baseimage.image_name()
    assert before.startswith("localhost/clipctl/base:bookworm-")
    monkeypatch.setattr(baseimage, "PACKAGES", (*baseimage.PACKAGES, "git"))
    assert baseimage.image_name() != before


def test_constraints_pin_stubs_by_their_local_version():
    text = projectimage.constraints({"numpy": "2.0", "triton": "3.1"}, {"triton": "3.1"})
    assert text == "numpy==2.0\ntriton==3.1+stub\n"


def test_other_inputs_are_another_layer():
    assert projectimage.uv_arguments("a") != projectimage.uv_arguments("b")


def test_environment_wins_over_files_and_later_files_over_earlier():
    texts = ["[global]\nindex-url = https://one\ncert = /a.pem\ntimeout = 5\n", "[install]\nindex-url = https://two\n"]
    assert installconfig.pip_settings({}, texts) == {"index-url": "https://two", "cert": "/a.pem"}
    assert installconfig.pip_settings({"PIP_INDEX_URL": "https://env"}, texts)["index-url"] == "https://env"
    assert installconfig.pip_settings({"PIP_INDEX_URL": ""}, []) == {}


def test_percent_signs_in_an_index_url_are_kept():
    assert installconfig.pip_settings({}, ["[global]\nindex-url = https://u:p%40x@h\n"]) == {
        "index-url": "https://u:p%40x@h"
    }


def test_certificates_are_named_by_their_place_inside_the_build():
    assert installconfig.pip_conf({"cert": "/somewhere/ca.pem"}) == f"[global]\ncert = {installconfig.CERTIFICATES}\n"
    assert installconfig.pip_conf({}) == "[global]\n"


def test_uv_is_told_the_same():
    settings = {"index-url": "https://i", "extra-index-url": "https://a https://b", "cert": "/x", "trusted-host": "h"}
    assert installconfig.uv_toml(settings).splitlines() == [
        "system-certs = true",
        'index-url = "https://i"',
        'extra-index-url = ["https://a", "https://b"]',
        'allow-insecure-host = ["h"]',
    ]
    assert installconfig.uv_toml({}) == ""


def test_mounts_are_read_only_and_carry_the_host_certificates(tmp_path, monkeypatch):
    monkeypatch.setattr(installconfig, "FILES", ())
    monkeypatch.setenv("PIP_CERT", "/somewhere/ca.pem")
    mounts = installconfig.write_mounts(tmp_path)
    assert all(mount.startswith("--volume=") and mount.endswith(":ro") for mount in mounts)
    assert f"--volume=/somewhere/ca.pem:{installconfig.CERTIFICATES}:ro" in mounts
    assert (tmp_path / "pip.conf").read_text().startswith("[global]\n")
