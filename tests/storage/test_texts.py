import csv
import gzip
import io
import json
import sys
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tercet.errors import InputError
from tercet.storage.lines import Lines
from tercet.storage.texts import Row, read_pairs, read_texts

ANY_TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
A_LINE = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\ufeff"), max_size=30)


def write(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def texts(path: str, **options: object) -> list[str]:
    with read_texts(path, **options) as reader:  # type: ignore[arg-type]
        return [row.text for row in reader]


def failure(path: str, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        texts(path, **options)
    return str(caught.value)


def test_line_n_of_a_text_file_is_text_n_and_empty_lines_are_empty_texts(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "one\n\n  two \r\nthree\n\n")
    with read_texts(path) as reader:
        assert list(reader) == [Row(0, "one"), Row(1, ""), Row(2, "  two "), Row(3, "three"), Row(4, "")]


def test_a_last_line_without_an_end_counts_and_an_empty_file_has_no_text(tmp_path: Path) -> None:
    assert texts(write(tmp_path, "a.txt", "one\ntwo")) == ["one", "two"]
    for name in ("empty.txt", "empty.jsonl", "empty.csv", "empty.tsv"):
        assert texts(write(tmp_path, name, "")) == []


def test_a_byte_order_mark_belongs_to_no_text(tmp_path: Path) -> None:
    assert texts(write(tmp_path, "a.txt", "\ufeffone\n\ufefftwo")) == ["one", "\ufefftwo"]
    assert texts(write(tmp_path, "a.csv", "\ufefftext\none\n")) == ["one"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(wanted=st.lists(A_LINE, max_size=5))
def test_any_lines_come_back_as_they_were_written(tmp_path: Path, wanted: list[str]) -> None:
    assert texts(write(tmp_path, "a.txt", "".join(line + "\n" for line in wanted))) == wanted


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(wanted=st.lists(ANY_TEXT, min_size=1, max_size=5))
def test_any_texts_come_back_from_csv_tsv_jsonl_and_parquet(tmp_path: Path, wanted: list[str]) -> None:
    for suffix, delimiter in (("csv", ","), ("tsv", "\t")):
        content = io.StringIO()
        csv.writer(content, delimiter=delimiter).writerows([["id", "text"], *enumerate(wanted)])
        assert texts(write(tmp_path, f"a.{suffix}", content.getvalue())) == wanted
    lines = "\n".join(json.dumps({"text": text}) for text in wanted)
    assert texts(write(tmp_path, "a.jsonl", lines)) == wanted
    pq.write_table(pa.table({"text": wanted}), tmp_path / "a.parquet")
    assert texts(str(tmp_path / "a.parquet")) == wanted


def test_gzip_is_read_by_its_suffix(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt.gz", gzip.compress(b"one\ntwo\n"))
    assert texts(path) == ["one", "two"]
    assert texts(write(tmp_path, "a.jsonl.gz", gzip.compress(b'{"text": "one"}'))) == ["one"]


def test_damaged_gzip_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    whole = gzip.compress(b"one\n" * 1000)
    assert "a.txt.gz: the gzip data is damaged" in failure(write(tmp_path, "a.txt.gz", whole[:-12]))
    assert "b.txt.gz: the gzip data is damaged" in failure(write(tmp_path, "b.txt.gz", b"not gzip at all"))


def test_stdin_needs_a_format_and_then_reads_like_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\ntwo\n")))
    assert "--format txt" in failure("-")
    with read_texts("-", format="txt") as reader:
        assert [row.text for row in reader] == ["one", "two"]
        assert reader.done() is None
    assert not sys.stdin.buffer.closed
    assert "cannot come from a pipe" in failure("-", format="parquet")


def test_without_a_choice_the_column_text_is_read_else_the_only_one_of_strings(tmp_path: Path) -> None:
    assert texts(write(tmp_path, "a.csv", "title,text\nt,one\n")) == ["one"]
    assert texts(write(tmp_path, "b.jsonl", '{"n": 1, "body": "one"}\n')) == ["one"]
    pq.write_table(
        pa.table({"n": [1], "body": pa.array(["one"]).dictionary_encode()}), tmp_path / "c.parquet"
    )
    assert texts(str(tmp_path / "c.parquet")) == ["one"]
    assert texts(write(tmp_path, "d.csv", "id,body\n7,one\n"), id_column="id") == ["one"]


def test_a_choice_that_cannot_be_made_names_the_columns_there_are(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", "title,body\nt,one\n")
    assert "Its columns: title, body. Choose one with --column" in failure(path)
    assert "no column 'bodi'. Did you mean 'body'?" in failure(path, column="bodi")
    assert "no column 'idd'" in failure(path, column="body", id_column="idd")
    assert texts(path, column="body") == ["one"]
    pq.write_table(pa.table({"n": [1], "m": [2]}), tmp_path / "b.parquet")
    assert "none of the others hold strings" in failure(str(tmp_path / "b.parquet"))
    assert "column 'n' does not hold strings. Those that do: none" in failure(
        str(tmp_path / "b.parquet"), column="n"
    )


def test_ids_come_from_their_column_and_keep_their_kind(tmp_path: Path) -> None:
    with read_texts(write(tmp_path, "a.jsonl", '{"k": 7, "text": "one"}\n'), id_column="k") as reader:
        assert list(reader) == [Row(7, "one")]
    with read_texts(write(tmp_path, "b.csv", "k,text\n07,one\n"), id_column="k") as reader:
        assert list(reader) == [Row("07", "one")]


@pytest.mark.parametrize("value", ["null", "1.5", "true", "[1]", str(2**63)])
def test_an_id_that_is_neither_string_nor_integer_is_an_error_with_its_line(
    tmp_path: Path, value: str
) -> None:
    path = write(tmp_path, "a.jsonl", f'{{"k": "a", "text": "one"}}\n{{"k": {value}, "text": "two"}}\n')
    assert "a.jsonl, line 2: the id in 'k' is" in failure(path, id_column="k")


def test_ids_of_two_kinds_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", '{"k": "a", "text": "one"}\n{"k": 2, "text": "two"}\n')
    assert "line 2: the id in 'k' is an int, those before it were str" in failure(path, id_column="k")


@pytest.mark.parametrize("value", ["null", "3", "true", '["a"]'])
def test_a_value_that_is_no_string_is_an_error_with_its_line(tmp_path: Path, value: str) -> None:
    path = write(tmp_path, "a.jsonl", f'{{"text": "one"}}\n\n{{"text": {value}}}\n')
    assert "a.jsonl, line 3: 'text' is" in failure(path)
    assert "not a string" in failure(path)


def test_a_null_in_parquet_is_an_error_with_its_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["one", None]}), tmp_path / "a.parquet")
    assert "a.parquet, row 1 (the first is 0): 'text' is null" in failure(str(tmp_path / "a.parquet"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": }', "line 2, column 10: not JSON"),
        ('["one"]', "line 2: a list, where each line must be an object"),
        ('{"other": "one"}', "line 2: no key 'text' here; its keys: other"),
        ('{"text": "\\ud800"}', "line 2: 'text' holds half of a surrogate pair"),
        ("[" * 100_000, "line 2: not usable JSON"),
    ],
)
def test_bad_json_is_an_error_with_file_and_line(tmp_path: Path, line: str, message: str) -> None:
    found = failure(write(tmp_path, "a.jsonl", '{"text": "one"}\n' + line + "\n"))
    assert "a.jsonl, " in found
    assert message in found


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,n\none,1\ntwo\n", "line 3: 1 fields, where the header has 2"),
        ('text,n\none,1\n"two,2\nthree,3\n', "line 3 to 4: not delimited text"),
        ('text,n\n"one"1,1\n', "line 2: not delimited text"),
        ("text;n\none;1\n", "which looks like several"),
        ("text,text\none,two\n", "'text' more than once"),
    ],
)
def test_bad_csv_is_an_error_with_file_and_line(tmp_path: Path, content: str, message: str) -> None:
    found = failure(write(tmp_path, "a.csv", content))
    assert "a.csv" in found
    assert message in found


def test_a_csv_row_over_several_lines_is_one_text_and_errors_count_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "a.csv", 'text,n\n"one\ntwo",1\n\nthree,3\nfour\n')
    with pytest.raises(InputError, match="line 6"):
        texts(path)
    assert texts(path, limit=2) == ["one\ntwo", "three"]


def test_a_field_far_larger_than_the_csv_default_is_read(tmp_path: Path) -> None:
    assert len(texts(write(tmp_path, "a.csv", "text\n" + "x" * 1_000_000 + "\n"))[0]) == 1_000_000


def test_a_line_without_end_is_an_error_before_it_fills_the_memory(tmp_path: Path) -> None:
    lines = Lines(write(tmp_path, "a.txt", "short\n" + "x" * 5000), max_line_bytes=1000)
    with pytest.raises(InputError, match=r"a\.txt, line 2: the line is longer than"):
        list(lines)
    lines.close()


def test_invalid_utf8_is_an_error_that_names_the_byte(tmp_path: Path) -> None:
    found = failure(write(tmp_path, "a.txt", "né\n".encode() + b"caf\xe9\n"))
    assert "a.txt, line 2: byte 7 of the file (0xe9) is not UTF-8" in found
    assert "iconv" in found


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    assert "no such file" in failure(str(tmp_path / "missing.txt"))
    assert "no such file" in failure(str(tmp_path / "missing.parquet"))
    (tmp_path / "folder.txt").mkdir()
    assert "is a folder" in failure(str(tmp_path / "folder.txt"))
    assert "Known: .txt, .jsonl, .csv, .tsv, .parquet" in failure(write(tmp_path, "a.json", "{}"))
    assert "no input format 'jsnl'. Did you mean 'jsonl'?" in failure(
        write(tmp_path, "a.x", ""), format="jsnl"
    )
    assert "not a whole Parquet file" in failure(write(tmp_path, "a.parquet", "PAR1 but not really"))


def test_a_parquet_file_cut_short_is_an_error_that_names_it(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": [f"text {row}" for row in range(5000)]}), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    damaged = whole[:500] + b"\xff" * 2000 + whole[2500:]
    assert "a.parquet: damaged" in failure(write(tmp_path, "a.parquet", damaged))


def test_a_limit_reads_no_further(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", b"one\ntwo\n\xff\n")
    assert texts(path, limit=2) == ["one", "two"]
    assert texts(path, limit=0) == []


def test_the_part_that_was_read_is_known_for_files(tmp_path: Path) -> None:
    path = write(tmp_path, "a.txt", "line\n" * 200_000)
    with read_texts(path) as reader:
        rows = iter(reader)
        next(rows)
        assert reader.done() == pytest.approx(0.0, abs=0.01)
        assert sum(1 for _ in rows) == 199_999
        assert reader.done() == 1.0


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "csv", "parquet"])
def test_reading_ten_times_the_rows_takes_no_more_memory(tmp_path: Path, suffix: str) -> None:
    def peak(rows: int) -> int:
        path = tmp_path / f"{rows}.{suffix}"
        wanted = [f"the text of row {row} " * 4 for row in range(rows)]
        if suffix == "parquet":
            pq.write_table(pa.table({"text": wanted}), path, use_dictionary=False)
        elif suffix == "jsonl":
            path.write_text("\n".join(json.dumps({"text": text}) for text in wanted))
        else:
            path.write_text("\n".join(["text", *wanted]))
        del wanted
        before = pa.total_allocated_bytes()
        tracemalloc.start()
        most = 0
        with read_texts(str(path)) as reader:
            for row in reader:
                if isinstance(row.id, int) and row.id % 500 == 0:
                    most = max(most, pa.total_allocated_bytes() - before)
        _, python = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return python + most

    few = 40_000 if suffix == "parquet" else 2_000  # pages and buffers of Parquet take a few MB of their own
    peak(100)
    assert peak(10 * few) < peak(few) + 1_500_000


def test_pairs_come_from_two_columns(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", "document\tquery\nd1\tq1\nd2\tq2\n")
    assert list(read_pairs(path, columns=("query", "document"))) == [("q1", "d1"), ("q2", "d2")]
    with pytest.raises(InputError, match="no column 'question'"):
        list(read_pairs(path, columns=("question", "document")))


def test_a_closed_standard_input_is_an_error(monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(InputError, match="The standard input is closed"):
        read_texts("-", format="txt")
