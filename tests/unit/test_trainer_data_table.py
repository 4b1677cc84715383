"""Tables of image-caption pairs: read as OpenCLIP's pandas reads them, images where they lie."""

import functools
import http.server
import io
import threading
from urllib.parse import quote

import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from clip_testkit.shards import png
from clip_trainer.data.sample_set import ReadHints
from clip_trainer.data.samples.packed_texts import PackedTexts
from clip_trainer.data.samples.table import ROWS_PER_SHARD, TableSamples
from clip_trainer.data.samples.table_images import TableImages
from clip_trainer.data.samples.table_rows import Row, read_rows
from clip_trainer.data.shards.sample import UnusableSample
from clip_trainer.data.storage.location import ALLOW_PIPE
from clipctl.contract.errors import CorruptError, MissingError, PermissionDeniedError, SpecError
from clipctl.contract.sections import ColumnsSection

COLUMNS = ColumnsSection(image="image", caption="text")
READ_AS_PANDAS = [
    "image,text\na.png,one\nb.png,two\n",
    "image,text\r\na.png,one\r\nb.png,two\r\n",
    "image,text\na.png,no newline at the end",
    "\n\nimage,text\n\na.png,after blank lines\n\n",
    'image,text\na.png,"a comma, a ""quote"" and\na second line"\n',
    'image,text\na.png,five" nails\n',
    "id,text,image,width\n1,columns in any order,a.png,8\n",
    "image,text,image\na.png,the first of equal names,b.png\n",
    "\ufeffimage,text\na.png,byte order mark\n",
    "image,text\na.png,grüße 北京 😀\n",
    'image,text\na.png,"after"the quote\n',
    "image,text\na.png,  blanks stay  \n",
    "image,text,more\na.png,a short row\n",
]


def rows(text, name="t.csv", **columns):
    return list(read_rows(io.BytesIO(text.encode()), name, COLUMNS.model_copy(update=columns)))


@pytest.mark.parity
@pytest.mark.parametrize("text", READ_AS_PANDAS)
def test_rows_are_what_openclip_makes_of_them(text):
    import pandas

    frame = pandas.read_csv(io.StringIO(text), sep=",")
    theirs = [Row(str(image), str(caption)) for image, caption in zip(frame["image"], frame["text"], strict=True)]
    assert rows(text) == theirs


@pytest.mark.parametrize("text", READ_AS_PANDAS)
def test_every_one_of_them_has_rows(text):
    assert {row.image for row in rows(text)} <= {"a.png", "b.png"} != set()


def test_the_ending_says_the_separator():
    assert rows("image\ttext\na.png\tone, two\n", "t.TSV") == [("a.png", "one, two")]
    assert rows("image;text\na.png;one\n", separator=";") == [("a.png", "one")]


def test_cells_are_texts():
    """Pandas would make 7.0, False and nan of them."""
    text = "image,text\na.png,007\nb.png,\nc.png,False\nd.png,null\n"
    assert [row.caption for row in rows(text)] == ["007", "", "False", "null"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("image,title\na.png,one\n", r"t\.csv:1: there is no column 'text' among 'image', 'title', separated by ','"),
        ("image\ttext\na.png\tone\n", r"t\.csv:1: there is no column 'image' among 'image\\ttext', separated by ','"),
        ("image,text\na.png,one\nb.png,two,three\n", r"t\.csv:3: the row has 3 cells, the header 2"),
        ('image,text\na.png,one\nb.png,"two\nthree\n', r"t\.csv:3: a quote does not end"),
        (f"image,text\na.png,{'x' * 200_000}\n", r"t\.csv:2: field larger than field limit"),
        ("", r"t\.csv is empty"),
        ("\n\n", r"t\.csv is empty"),
    ],
)
def test_broken_tables_are_refused_with_the_line(text, problem):
    with pytest.raises(SpecError, match=problem):
        rows(text)


def test_text_that_is_not_utf_8():
    with pytest.raises(SpecError, match=r"t\.csv is not UTF-8 text"):
        list(read_rows(io.BytesIO("image,text\na.png,grüße\n".encode("latin-1")), "t.csv", COLUMNS))


def test_parquet():
    table = pyarrow.table({"text": ["one", None], "id": [1, 2], "image": ["a.png", "b.png"]})
    file = io.BytesIO()
    parquet.write_table(table, file)
    assert list(read_rows(io.BytesIO(file.getvalue()), "t.parquet", COLUMNS)) == [("a.png", "one"), ("b.png", "")]
    with pytest.raises(SpecError, match="there is no column 'title' among 'text', 'id', 'image'"):
        list(read_rows(file, "t.parquet", ColumnsSection(image="image")))
    with pytest.raises(CorruptError, match="not a readable Parquet file"):
        list(read_rows(io.BytesIO(file.getvalue()[:-9]), "t.parquet", COLUMNS))


def test_parquet_without_pyarrow(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingError, match="needs pyarrow"):
        list(read_rows(io.BytesIO(b""), "t.parquet", COLUMNS))


@given(texts=st.lists(st.text(max_size=20), max_size=30))
def test_packed_texts_are_the_texts(texts):
    packed = PackedTexts()
    for text in texts:
        packed.append(text)
    assert [packed[number] for number in range(len(packed))] == texts
    for outside in (-1, len(texts)):
        with pytest.raises(IndexError):
            packed[outside]


@pytest.fixture
def folder(tmp_path):
    """`t.csv` with five rows: images 0 to 2 beside it, one that is missing and one without a name."""
    (tmp_path / "pictures").mkdir()
    for number in range(3):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(png(number))
    lines = [
        "image,text",
        *(f"pictures/{number}.png,picture {number}" for number in range(3)),
        "gone.png,gone",
        ",none",
    ]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    return tmp_path


def read_all(samples):
    reader = samples.open_reader(ReadHints())
    return [reader.read(shard, index) for shard, count in enumerate(samples.counts) for index in range(count)]


def test_a_table_is_a_set_of_samples(folder):
    samples = TableSamples(str(folder / "t.csv"), COLUMNS)
    samples.require("image", "caption")
    assert (list(samples.counts), samples.remote) == ([5], False)
    found = read_all(samples)
    assert [sample.image() for sample in found[:3]] == [png(number) for number in range(3)]
    assert [sample.captions() for sample in found[:3]] == [(f"picture {number}",) for number in range(3)]
    assert [sample.class_number() for sample in found] == [None] * 5


def test_a_missing_image_is_one_unusable_sample(folder):
    *_, gone, nameless = read_all(TableSamples(str(folder / "t.csv"), COLUMNS))
    with pytest.raises(UnusableSample, match="missing file"):
        gone.image()
    with pytest.raises(UnusableSample, match="no image"):
        nameless.image()
    assert gone.key == "gone.png"


def test_an_empty_caption_is_unusable(folder):
    (folder / "t.csv").write_text("image,text\npictures/0.png, \n")
    with pytest.raises(UnusableSample, match="no caption"):
        read_all(TableSamples(str(folder / "t.csv"), COLUMNS))[0].captions()


def test_a_wrong_root_is_found_before_the_run_starts(folder):
    samples = TableSamples(str(folder / "t.csv"), COLUMNS.model_copy(update={"root": "/nowhere"}))
    with pytest.raises(
        MissingError, match=r"none of the first 5 images is there, for example 'pictures/0\.png'"
    ) as caught:
        samples.require("image", "caption")
    assert "data.columns.root" in caught.value.hint
    samples.require("caption")
    with pytest.raises(CorruptError, match="has no classes"):
        samples.require("class")


@pytest.mark.parametrize("root", ["", "file://"])
def test_roots(folder, root):
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "t.csv").write_text("image,text\n0.png,nought\n")
    columns = COLUMNS.model_copy(update={"root": f"{root}{folder}/pictures"})
    (sample,) = read_all(TableSamples(f"{root}{folder}/elsewhere/t.csv", columns))
    assert sample.image() == png(0)


def test_absolute_paths_and_the_working_directory(folder, monkeypatch):
    (folder / "t.csv").write_text(f"image,text\n{folder}/pictures/1.png,one\n")
    assert read_all(TableSamples(str(folder / "t.csv"), COLUMNS))[0].image() == png(1)
    monkeypatch.chdir(folder)
    assert read_all(TableSamples("t.csv", COLUMNS))[0].image() == png(1)
    (folder / "deep").mkdir()
    (folder / "deep" / "t.csv").write_text("image,text\npictures/2.png,two\n")
    as_openclip = COLUMNS.model_copy(update={"root": "."})
    assert read_all(TableSamples("deep/t.csv", as_openclip))[0].image() == png(2)


def test_virtual_shards(tmp_path):
    lines = ["image,text", *(f"{row}.png,{row}" for row in range(2 * ROWS_PER_SHARD + 7))]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    samples = TableSamples(str(tmp_path / "t.csv"), COLUMNS)
    assert list(samples.counts) == [ROWS_PER_SHARD, ROWS_PER_SHARD, 7]
    reader = samples.open_reader(ReadHints())
    assert reader.read(1, 5).captions() == ("1005",)
    assert reader.read(2, 6).captions() == ("2006",)
    assert samples.shard_name(2).endswith("t.csv from row 2001")


def test_the_identity_is_that_of_the_rows(folder):
    def identity(name, text, **columns):
        (folder / name).write_text(text)
        return TableSamples(str(folder / name), COLUMNS.model_copy(update=columns)).identity

    one = identity("one.csv", "image,text\na,b\nc,d\n")
    assert identity("copy.tsv", "id\ttext\timage\n7\tb\ta\n8\td\tc\n") == one
    others = {
        identity("o.csv", "image,text\nc,d\na,b\n"),
        identity("p.csv", "image,text\nab,\nc,d\n"),
        identity("q.csv", "image,text\na,b\n"),
        identity("r.csv", "text,image\na,b\nc,d\n"),
    }
    assert len(others | {one}) == 5


def test_tables_that_are_not_there(tmp_path):
    with pytest.raises(MissingError, match=r"t\.csv does not exist"):
        TableSamples(str(tmp_path / "t.csv"), COLUMNS)
    (tmp_path / "t.csv").write_text("image,text\n")
    with pytest.raises(MissingError, match="has no rows"):
        TableSamples(str(tmp_path / "t.csv"), COLUMNS)


class Quiet(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass


@pytest.fixture
def site(folder):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_tables_and_images_by_url(folder, site):
    samples = TableSamples(f"{site}/t.csv", COLUMNS)
    assert samples.remote
    samples.require("image")
    found = read_all(samples)
    assert found[1].image() == png(1)
    with pytest.raises(UnusableSample, match="missing file"):
        found[3].image()
    (folder / "my table.csv").write_text("image,text\npictures/0.png,nought\n")
    assert read_all(TableSamples(f"{site}/my%20table.csv", COLUMNS))[0].image() == png(0)
    (folder / "mixed.csv").write_text(f"image,text\n{site}/pictures/2.png,far\npictures/1.png,near\n")
    mixed = TableSamples(str(folder / "mixed.csv"), COLUMNS)
    assert mixed.remote
    reader = mixed.open_reader(ReadHints())
    assert [reader.read(0, row).image() for row in range(2)] == [png(2), png(1)]
    counts = reader.snapshot()
    assert counts["bytes_read"] == len(png(1)) + len(png(2))
    assert counts["requests"] >= 2


@pytest.mark.parametrize(
    "name",
    [
        *["http://", "://x", "s3://", "s3://b", "http://[::1/x", "http://127.0.0.1:99999/x", "foo://b/x"],
        *["~nobody/x", "x" * 300, "a\0b", "a\ud800b", ".", "..", "", "/", "pipe://touch ran/x", "memory://a/b"],
    ],
)
def test_names_that_cannot_be_files(tmp_path, monkeypatch, name):
    """One of millions; and no name in a table chooses a program or a driver."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(ALLOW_PIPE, "1")
    assert TableImages(str(tmp_path)).read(name) is None
    assert not list(tmp_path.iterdir())


def test_the_scheme_of_the_root_is_read(tmp_path):
    from fsspec.implementations.memory import MemoryFileSystem

    MemoryFileSystem.store.clear()
    MemoryFileSystem().pipe("/pictures/a.png", b"a")
    assert TableImages("memory://pictures").read("a.png") == b"a"
    MemoryFileSystem.store.clear()


@pytest.mark.parametrize("name", ["ü x#1.png", "100%.png", "a?b.png", "d/e f.png"])
def test_names_with_special_characters(folder, site, name):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(png(7))
    assert TableImages(site).read(name) == TableImages(str(folder)).read(name) == png(7)
    assert TableImages(f"{site}/").read(f"{site}/{quote(name)}") == png(7)


def test_urls_with_queries(folder, site):
    assert TableImages(str(folder)).read(f"{site}/pictures/0.png?width=8#top") == png(0)
    assert TableImages(str(folder)).read(f"{site}/gone.png?width=8") is None


def test_connections_are_bounded(folder, site):
    images = TableImages(str(folder))
    for number in range(300):
        images._source(f"{site}?{number}")
    assert len(images._sources) == 256
    assert images.read(f"{site}/pictures/1.png?one=more") == png(1)


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    images = TableImages(str(tmp_path))
    (tmp_path / "a.png").write_bytes(b"x")
    assert images.read("a.png/b.png") is None

    def refuse(_):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(PermissionDeniedError, match=r"a\.png may not be read"):
        images.read("a.png")
