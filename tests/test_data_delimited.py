"""CSV: what is read, what is refused, and on which line."""

import csv as standard
import io

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pyarrow import csv as arrow
from tables import csv

from gpunet.data import delimited
from gpunet.errors import DataError, OutOfMemory, UsageError


def rows(text, **options):
    return [tuple(row.values()) for row in csv(text, **options).table.to_pylist()]


def test_cells_stay_as_they_stand():
    source = csv("a,b,c\n007,1e999,0x10\n,NA, x \n")
    assert source.columns == ["a", "b", "c"]
    assert source.table.to_pylist() == [
        {"a": "007", "b": "1e999", "c": "0x10"},
        {"a": "", "b": "NA", "c": " x "},
    ]
    assert source.text
    assert source.first == 2


@pytest.mark.parametrize(
    "variant",
    [
        b"a,b\n1,2\n3,4\n",
        b"a,b\n1,2\n3,4",
        b"\xef\xbb\xbfa,b\n1,2\n3,4\n",
        b"a,b\r\n1,2\r\n3,4\r\n",
        b"a,b\r1,2\r3,4\r",
        b"a,b\r\n1,2\n3,4\r\n",
        b"\n\na,b\n1,2\n\r\n\n3,4\n\n",
        b'"a","b"\n"1","2"\n"3","4"',
        b"a;b\n1;2\n3;4\n",
        b"a\tb\n1\t2\n3\t4\n",
        b"a|b\n1|2\n3|4\n",
    ],
)
def test_the_same_table_in_many_spellings(variant):
    source = csv(variant)
    assert source.columns == ["a", "b"]
    assert rows(variant) == [("1", "2"), ("3", "4")]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("name;town\na, b;x, y\nc, d;z\n", ["name", "town"]),
        ("name;town, county\na;b, c\nd;e, f\n", ["name", "town, county"]),
        ("when,what\n2020-01-01;a,b\n2020-01-02;c,d\n", ["when", "what"]),
        ("a;b\n1,5;2,5\n3,5;4\n", ["a", "b"]),
        ("one\n1\n2\n", ["one"]),
        ('"a;b","c"\n1,2\n', ["a;b", "c"]),
    ],
)
def test_the_delimiter_is_the_one_that_cuts_evenly(text, names):
    assert csv(text).columns == names


def test_a_given_delimiter_is_used():
    assert rows("a:b\n1:2\n", delimiter=":") == [("1", "2")]
    assert rows("a\tb\n1\t2\n", delimiter="tab") == [("1", "2")]
    for wrong in ("::", '"', "é", "\n"):
        with pytest.raises(UsageError, match="wanted one character"):
            csv("a,b\n1,2\n", delimiter=wrong)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_first_line_may_name_the_delimiter(end):
    text = end.join(["sep=;", "a;b", "1;2,5", "3;4", ""])
    source = csv(text)
    assert rows(text) == [("1", "2,5"), ("3", "4")]
    assert [source.row(i) for i in range(2)] == ["row 3", "row 4"]
    assert csv(text, header=False).row(0) == "row 2"
    assert csv(text.replace(",", ""), delimiter=",").columns == ["a;b"]
    with pytest.raises(DataError, match="no rows, the file is empty"):
        csv("sep=;")


def test_without_a_header_columns_are_numbered_and_rows_begin_at_one():
    source = csv("1,2\n3,4\n", header=False)
    assert source.columns == ["c1", "c2"]
    assert source.rows == 2
    assert source.row(0) == "row 1"


def test_quotes_commas_and_line_ends_in_cells():
    text = 'a,b\n"x, y","line 1\nline 2"\n"she said ""no""",""\nlast,1\n'
    source = csv(text)
    assert rows(text) == [("x, y", "line 1\nline 2"), ('she said "no"', ""), ("last", "1")]
    assert [source.row(i) for i in range(3)] == ["row 2", "row 4", "row 5"]


def test_blank_lines_move_row_numbers():
    source = csv("a,b\n\n1,2\n\n\n3,4\n")
    assert [source.row(i) for i in range(2)] == ["row 3", "row 6"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no rows, the file is empty"),
        ("\n\n\r\n", "no rows, the file is empty"),
        ("a,b\n", "no rows below the header"),
        ("a,b\n1,2\n3\n4,5\n", "line 3 has 1 cell, line 1 has 2"),
        ("a,b\n1,2\n3,4,5\n", "line 3 has 3 cells, line 1 has 2"),
        ("a,b\n1,2,\n3,4,\n", "line 2 has 3 cells, line 1 has 2"),
        ('a,b\n"1\n1",2\n3\n', "line 4 has 1 cell, line 1 has 2"),
        ('a,b\n1,"2\n3,4\n', "line 2 has a quote that does not enclose"),
        ('a,b\n1,2\n1,"2\n3,"4"\n', "line 3 has a quote that does not enclose"),
        ('a,b\n1,2"x\n3,4\n', "line 2 has a quote that does not enclose"),
        ('a,b\n1,"2"x\n3,4\n', "line 2 has a quote that does not enclose"),
        ("a,a,b,b,c\n1,2,3,4,5\n", "the same column name more than once: a, b$"),
        ("a, a\n1,2\n", "the same column name more than once: a$"),
        ("a,,b\n1,2,3\n", "column 2 has no name; name it in the first line$"),
        (
            "a,b,\n1,2,\n",
            'column 3 has no name; .* line, or remove the "," at the end of every line',
        ),
        ("1,1,x\n1,2,3\n", "more than once: 1$"),
        ("1,1,2.5\n1,2,3\n", "more than once: 1; the first line looks like data; --no-header"),
        (",a,\n0,1,2\n", "1 has no name; remove the lines .*, or name them in the first line$"),
        ("Title,,,\n\na,b,c,d\n", "column 2 has no name; remove the lines above the one that n"),
        (
            "a,b,,\n1,2,,\n",
            'remove the lines .*, or name them .*, or remove the "," at the end of every line$',
        ),
        ("Title\n\na,b\n1,2\n", "line 3 has 2 cells, line 1 has 1; if line 1 is a title, remove"),
        (",2.5,3.5\n1,2,3\n", "column 1 has no name; the first line looks like data; --no-header"),
        ('""\n1\n', "column 1 has no name; name it in the first line"),
        ("a,b\n1,2\x00\n", "line 2 holds a NUL byte"),
    ],
)
def test_what_is_refused(text, message):
    with pytest.raises(DataError, match=message):
        csv(text, delimiter=",")


@pytest.mark.parametrize("name", ["", '""', " "])
def test_a_first_column_without_a_name_is_an_index_and_left_out(name):
    rows = "".join(f'"r{i}",{i},x\n' for i in range(5))
    source = csv(f'{name},a,"b"\n{rows}')
    assert source.table.to_pydict() == {"a": list("01234"), "b": ["x"] * 5}
    assert source.notes == (
        "t: left out the first column, which has no name, as an index has none",
    )


def test_a_cell_over_one_megabyte_is_refused_and_one_below_is_read():
    below = "x" * (delimited.MAX_CELL - 1)
    assert csv(f"a,b\n{below},1\n").table["a"][0].as_py() == below
    with pytest.raises(DataError, match=r"a cell near line 3 has 1.0 MiB; the limit is 1.0 MiB"):
        csv(f"a,b\n1,2\n{'x' * (delimited.MAX_CELL + 1)},1\n")


def test_more_text_or_more_cells_than_memory_holds():
    text = "a,b\n" + "1,2\n" * 1000
    with pytest.raises(OutOfMemory, match=r"3\.9 KiB of text: needs 31\.3 KiB; --max-mem"):
        csv(text, 32_000)
    with pytest.raises(OutOfMemory, match=r"2,002 cells: needs 93\.8 KiB; --max-memory.*Parquet"):
        csv(text, 96_000)
    assert csv(text, 97_000).rows == 1000


def test_padded_names_are_stripped_and_said_so():
    source = csv("a, b,c\n1,2,3\n")
    assert source.columns == ["a", "b", "c"]
    assert source.notes == ("t: took the spaces around column names away: b",)


def test_a_header_of_numbers_is_doubted():
    doubt = "t: the first line looks like data; --no-header says that it is"
    assert csv("1,2\n3,4\n").notes == (doubt,)
    assert csv("0.5,x\n3,4\n").notes == (doubt,)
    assert csv("a,2\n3,4\n").notes == csv("0.5,a,b\n3,4,5\n").notes == ()
    assert csv("1,2\n3,4\n", header=False).notes == ()


def test_names_with_markup_and_control_characters_are_data():
    names = ["[/red]", "\x1b[31ma\x1b[0m", "=cmd|x", "日本"]
    assert csv(",".join(names) + "\n1,2,3,4\n").columns == names


def test_ten_thousand_columns():
    names = [f"c{i}" for i in range(10_000)]
    line = ",".join("1" * 10_000)
    source = csv(f"{','.join(names)}\n{line}\n{line}\n")
    assert source.columns == names
    assert source.rows == 2


CELL = st.text(st.sampled_from('ab1 ,;"\n\r\t|é'), max_size=6)


@settings(max_examples=300, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda width: st.lists(
            st.lists(CELL, min_size=width, max_size=width), min_size=1, max_size=8
        )
    ),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([5, 17, 1 << 22]),
)
@example([["1", "1"], ["11", "111é\r\n"]], "\n", 5)
def test_what_the_csv_module_writes_is_read_back(table, end, block):
    file = io.StringIO(newline="")
    writer = standard.writer(file, lineterminator=end, quoting=standard.QUOTE_ALL)
    writer.writerow([f"c{i}" for i in range(len(table[0]))])
    writer.writerows(table)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("SCAN", "PIECE", "BLOCK"):
            patch.setattr(delimited, name, block)
        source = csv(file.getvalue(), delimiter=",")
    assert [list(row.values()) for row in source.table.to_pylist()] == table
    reader = standard.reader(io.StringIO(file.getvalue(), newline=""))
    next(reader)
    for i in range(len(table)):
        assert source.row(i) == f"row {reader.line_num + 1}"
        next(reader)


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a,b\n1,2\n\n\n\n\n\n\n\n\n\n3,4\n", [["1", "2"], ["3", "4"]]),
        ("\r\n\r\n\r\n\r\na,b\r\n1,2\r\n", [["1", "2"]]),
        ("a,b\n1,2222\n\ufeff9,8\n3,4\n", [["1", "2222"], ["\ufeff9", "8"], ["3", "4"]]),
        ("a\n1\n1\n1\n1\n\ufeff\n5\n", [["1"], ["1"], ["1"], ["1"], ["\ufeff"], ["5"]]),
    ],
)
@pytest.mark.parametrize("block", [4, 5, 7, 10, 1 << 22])
def test_wherever_a_piece_begins(text: str, rows: list[list[str]], block: int, monkeypatch) -> None:
    for name in ("SCAN", "PIECE", "BLOCK"):
        monkeypatch.setattr(delimited, name, block)
    assert [list(row.values()) for row in csv(text, delimiter=",").table.to_pylist()] == rows


@pytest.mark.parametrize("scan", [1 << 10, 1 << 19, 1 << 22])
def test_a_cell_that_is_too_large_is_where_it_is_said(scan: int, monkeypatch) -> None:
    monkeypatch.setattr(delimited, "SCAN", scan)
    large = "x" * ((1 << 20) + 1)
    for rows in (["1,2"] * 5000 + [f"{large},{large}"], ["1,2"] * 5000 + [f"1,{large}", "1,2"]):
        with pytest.raises(DataError, match=r"a cell near line 5,002 has 1\.0 MiB"):
            csv("\n".join(["a,b", *rows]) + "\n")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60) | st.text(st.sampled_from('a,"\n\r;1'), max_size=40))
def test_junk_is_read_or_refused_but_never_breaks(junk):
    try:
        source = csv(junk)
    except DataError:
        return
    assert source.rows >= 1
    assert len(set(source.columns)) == len(source.columns) >= 1


@pytest.mark.parametrize(
    ("refusal", "times", "raised"),
    [
        (pa.ArrowInvalid("Expected 2 columns"), 1, DataError),
        (pa.lib.ArrowException("Failed to launch worker thread"), 2, DataError),
        (pa.ArrowMemoryError("malloc of size 131136 failed"), 2, MemoryError),
    ],
)
def test_only_a_refusal_that_threads_may_be_the_reason_of_is_tried_again(
    refusal: Exception, times: int, raised: type[Exception], monkeypatch
) -> None:
    tried = []

    def refuse(*given: object) -> None:
        tried.append(given)
        raise refusal

    monkeypatch.setattr(arrow, "read_csv", refuse)
    with pytest.raises(raised, match=str(refusal)):
        csv("a,b\n1,2\n")
    assert len(tried) == times
