"""Tables of addresses: with and without headers, of every kind, and as damaged as the web's."""

import gzip
import json
import sys

import pytest

from clip_trainer.data.gather.table import Row, TableColumns, read_rows, survey
from clipctl.contract.errors import MissingError, PermissionDeniedError, SpecError

CAT, DOG = "http://a.test/cat.jpg", "https://b.test/dog.png"
PAIRS = [Row(0, CAT, "a cat"), Row(1, DOG, "a dog")]


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def rows(tmp_path, name, content, **columns):
    return list(read_rows(write(tmp_path, name, content), TableColumns(**columns)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cc3m.tsv", f"a cat\t{CAT}\na dog\t{DOG}\n"),
        ("cc12m.tsv", f"{CAT}\ta cat\n{DOG}\ta dog\n"),
        ("windows.tsv", f"\ufeff{CAT}\ta cat\r\n{DOG}\ta dog\r\n"),
        ("header.tsv", f"caption\turl\na cat\t{CAT}\na dog\t{DOG}"),
        ("pandas.tsv", f'TEXT\tURL\n"a cat"\t{CAT}\na dog\t{DOG}\n'),
        ("more.tsv", f"id\tURL\tsimilarity\tTEXT\n1\t{CAT}\t0.3\ta cat\n2\t{DOG}\t0.2\ta dog\n"),
        ("bare.csv", f"{CAT},a cat\n{DOG},a dog\n"),
        ("header.csv", f'image_url,title\n{CAT},"a cat"\n\n{DOG}, a dog \n'),
        ("t.jsonl", f'{{"url": "{CAT}", "caption": "a cat"}}\n\n{{"caption": "a dog", "url": "{DOG}"}}\n'),
    ],
)
def test_tables_as_they_are_published(tmp_path, name, content):
    assert rows(tmp_path, name, content) == PAIRS
    packed = write(tmp_path, f"{name}.gz", gzip.compress(content.encode()))
    assert list(read_rows(packed)) == PAIRS


def test_columns_can_be_named(tmp_path):
    content = f"link\tde\turl\tcaption\n{CAT}\teine Katze\tx\ty\n"
    assert rows(tmp_path, "t.tsv", content, url="link", caption="de") == [Row(0, CAT, "eine Katze")]
    assert rows(tmp_path, "t.tsv", content, caption="de") == [Row(0, "x", "eine Katze")]
    line = json.dumps({"link": CAT, "alt": "a cat"})
    assert rows(tmp_path, "t.jsonl", line, url="link") == [Row(0, CAT, "a cat")]


def test_the_usual_names_have_an_order_and_no_case(tmp_path):
    assert rows(tmp_path, "t.tsv", f"text\tCaption\tURL\nno\tyes\t{CAT}\n") == [Row(0, CAT, "yes")]


def test_a_stray_quotation_mark_harms_no_other_row(tmp_path):
    content = f'"hello" she said\t{CAT}\n5" pipe\t{DOG}\n"\t{CAT}\n"a ""b"" c"\t{DOG}\n'
    assert [row.caption for row in rows(tmp_path, "t.tsv", content)] == ['"hello" she said', '5" pipe', '"', 'a "b" c']


def test_damaged_lines_keep_their_numbers_and_have_no_address(tmp_path):
    content = f"a cat\t{CAT}\nno address at all\nthree\tcells\t{CAT}\na dog\t{DOG}\n"
    assert rows(tmp_path, "t.tsv", content) == [PAIRS[0], Row(1, "", ""), Row(2, "", ""), Row(3, DOG, "a dog")]


def test_text_that_is_not_utf8_harms_its_own_cell(tmp_path):
    content = b"caf\xe9 at night\t" + CAT.encode() + b"\na dog\t" + DOG.encode() + b"\n"
    assert rows(tmp_path, "t.tsv", content) == [Row(0, CAT, "caf\ufffd at night"), PAIRS[1]]


def test_strange_line_separators_do_not_end_a_line(tmp_path):
    content = f"a\u2028cat\x0b\x85\t{CAT}\na dog\t{DOG}\n"
    assert [row.url for row in rows(tmp_path, "t.tsv", content)] == [CAT, DOG]


def test_cells_of_json_that_are_no_text_are_empty(tmp_path):
    lines = [{"url": CAT, "caption": "a cat"}, {"url": DOG, "caption": None}, {"caption": ["x"]}]
    found = rows(tmp_path, "t.jsonl", "\n".join(map(json.dumps, lines)))
    assert found == [PAIRS[0], Row(1, DOG, ""), Row(2, "", "")]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("t.txt", CAT, "unknown kind of table"),
        ("t.parquet.gz", "", "unknown kind of table"),
        ("t.tsv", f"a cat\t{CAT}\t0.3\n", "no header and 3 columns"),
        (
            "t.tsv",
            "caption\tlink\nx\ty\n",
            r"no column of addresses among 'caption', 'link'\. Name it with --url-column",
        ),
        ("t.tsv", "url\twords\nx\ty\n", "no column of captions"),
        ("t.csv", "url,caption\n" + '"' + "x" * 200_000, "t.csv:"),
        ("t.jsonl", '{"url": "x"\n', r"t\.jsonl:1: not JSON"),
        ("t.jsonl", '{"url": "x", "caption": "y"}\n[1]\n', r"t\.jsonl:2: not a JSON object"),
        ("t.jsonl", "[" * 100_000, "not JSON"),
        ("t.tsv.gz", "no gzip", "not a whole gzip file"),
        ("t.tsv.gz", gzip.compress(f"a cat\t{CAT}\n".encode() * 999)[:-9], "not a whole gzip file"),
    ],
)
def test_tables_that_make_no_sense(tmp_path, name, content, problem):
    with pytest.raises(SpecError, match=problem):
        rows(tmp_path, name, content)


def test_columns_of_a_table_without_a_header_have_no_names(tmp_path):
    with pytest.raises(SpecError, match="has no header to find columns by"):
        rows(tmp_path, "t.tsv", f"a cat\t{CAT}\n", url="url")
    with pytest.raises(SpecError, match="no column of captions"):
        rows(tmp_path, "t.tsv", f"caption\turl\nx\t{CAT}\n", caption="Caption")


def test_tables_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(MissingError, match="does not exist"):
        list(read_rows(tmp_path / "none.tsv"))
    (tmp_path / "folder.tsv").mkdir()
    with pytest.raises(MissingError, match="does not exist"):
        list(read_rows(tmp_path / "folder.tsv"))

    def refuse(*args, **options):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(PermissionDeniedError):
        list(read_rows(tmp_path / "t.tsv"))


def test_a_survey_counts_rows_and_knows_a_table_by_its_content(tmp_path):
    bare = survey(write(tmp_path, "a.tsv", f"a cat\t{CAT}\na dog\t{DOG}\n"))
    other_form = survey(write(tmp_path, "b.csv", f"url,caption\n{CAT},a cat\n{DOG},a dog\n"))
    other_order = survey(write(tmp_path, "c.tsv", f"a dog\t{DOG}\na cat\t{CAT}\n"))
    assert bare == other_form
    assert bare.rows == other_order.rows == 2
    assert bare.digest != other_order.digest


@pytest.mark.parametrize("content", ["", "\n\n", "caption\turl\n"])
def test_a_table_without_rows(tmp_path, content):
    with pytest.raises(MissingError, match="has no rows"):
        survey(write(tmp_path, "t.tsv", content))


def test_parquet(tmp_path):
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table({"KEY": [1, 2, 3], "URL": [CAT, DOG, None], "TEXT": ["a cat", "a dog", None]})
    pyarrow.parquet.write_table(table, tmp_path / "laion.parquet")
    assert list(read_rows(tmp_path / "laion.parquet")) == [*PAIRS, Row(2, "", "")]
    with pytest.raises(SpecError, match="no column of addresses among 'KEY'"):
        list(read_rows(tmp_path / "laion.parquet", TableColumns("link")))
    with pytest.raises(SpecError, match="is not a parquet file"):
        rows(tmp_path, "bad.parquet", b"PAR1 not really")
    with pytest.raises(MissingError, match="does not exist"):
        list(read_rows(tmp_path / "none.parquet"))


def test_parquet_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SpecError, match="parquet needs pyarrow"):
        rows(tmp_path, "t.parquet", b"")
