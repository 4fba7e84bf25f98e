from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import pytest

from klagg.errors import RecordingError
from klagg.recordings import files
from klagg.recordings.files import text_head, text_lines
from klagg.recordings.values import is_text


def lines(path: Path) -> list[str]:
    return [line for _, line in text_lines(path)]


def test_plain_gzip_and_zip_are_told_apart_by_content(tmp_path: Path) -> None:
    text = "a\r\nb\n\nc"
    plain, packed, archive = tmp_path / "1.gz", tmp_path / "2.csv", tmp_path / "3.txt"
    plain.write_text(text, newline="")
    packed.write_bytes(gzip.compress(text.encode()))
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("inner.csv", text)
    for path in (plain, packed, archive):
        assert lines(path) == ["a", "b", "", "c"]
    assert list(text_lines(plain))[-1] == (4, "c")


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"\xef\xbb\xbfid,price\n")
    assert lines(path) == ["id,price"]


def test_lines_and_letters_across_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_CHUNK_BYTES", 3)
    path = tmp_path / "x"
    path.write_text("币安人生\nabcdefg\n")
    assert lines(path) == ["币安人生", "abcdefg"]


def test_an_endless_line_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LINE_LENGTH_MAX", 10)
    path = tmp_path / "x"
    path.write_text("short\n" + "y" * 11)
    with pytest.raises(RecordingError, match="is longer than 10 characters") as caught:
        lines(path)
    assert caught.value.where == 2


def test_a_byte_that_is_no_text_spoils_its_line_alone(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes("币安\n".encode() + b"abc\xff\xfe\nabc\n")
    assert [is_text(line) for line in lines(path)] == [True, False, True]


def test_every_damage_is_one_clear_sentence(tmp_path: Path) -> None:
    whole = gzip.compress(b"line\n" * 100_000)
    cut, broken, two = (tmp_path / name for name in ("cut", "broken", "two"))
    cut.write_bytes(whole[: len(whole) // 2])
    broken.write_bytes(whole[:20] + b"\xff" * 20 + whole[40:])
    with zipfile.ZipFile(two, "w") as out:
        out.writestr("a", "1")
        out.writestr("b", "2")
    for path, reason in (
        (cut, "the compressed file is cut off before its end"),
        (broken, "the compressed file is damaged"),
        (two, "the zip holds 2 files where one is expected"),
        (tmp_path / "absent", "cannot be read (No such file or directory)"),
        (tmp_path, "cannot be read (Is a directory)"),
    ):
        with pytest.raises(RecordingError) as caught:
            lines(path)
        assert str(path) in str(caught.value)
        assert reason in str(caught.value)


def test_the_head_of_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"")
    assert text_head(path) == ""
