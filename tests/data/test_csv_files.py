"""migcore.data.files: CSVs round trip; bad ones are told by file and row; a full disk loses nothing."""

from __future__ import annotations

import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import quick, write_skeleton

from migcore.data import files
from migcore.data.layouts import OPENPOSE35, OPENPOSE137
from migcore.errors import DataError, StorageError


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file can grow past ``limit`` bytes, as if the disk were full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@quick
@given(st.integers(1, 4), st.floats(0.001, 1e4), st.integers(0, 2**32))
def test_skeletons_round_trip(tmp_path: Path, frames: int, scale: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    keypoints, scores = rng.normal(0, scale, (frames, 35, 2)), rng.random((frames, 35))
    path = tmp_path / "0001_light_hand.csv"
    files.write_skeleton_csv(path, keypoints, scores)
    points, confidence = files.read_skeleton_csv(path, OPENPOSE35)
    used = [(c - 1) // 3 for c in OPENPOSE35.joints]
    assert points.dtype == confidence.dtype == np.float32
    np.testing.assert_allclose(points, keypoints[:, used], rtol=1e-6, atol=0.0006)
    np.testing.assert_allclose(confidence, scores[:, used], atol=0.0006)
    assert files.count_skeleton_rows(path, OPENPOSE35) == len(keypoints)


def test_skeleton_bytes_are_fixed(tmp_path: Path) -> None:
    keypoints, scores = np.zeros((2, 35, 2)), np.zeros((2, 35))
    keypoints[1, 0], scores[1, 0] = (-0.0004, 12.34567), 0.5
    files.write_skeleton_csv(tmp_path / "a" / "b.csv", keypoints, scores)
    lines = (tmp_path / "a" / "b.csv").read_bytes().split(b"\n")
    assert lines[0] == b"1" + b",0.000" * 105
    assert lines[1].startswith(b"2,0.000,12.346,0.500,0.000,") and lines[2:] == [b""]
    files.write_skeleton_csv(tmp_path / "c.csv", keypoints.astype(np.float32), scores.astype(np.float32))
    assert (tmp_path / "c.csv").read_bytes() == (tmp_path / "a" / "b.csv").read_bytes()


def rows_of(path: Path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text().splitlines()]


def put_rows(path: Path, rows: list[list[str]]) -> Path:
    path.write_text("".join(",".join(row) + "\n" for row in rows))
    return path


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    write_skeleton(tmp_path / "0001_light_hand.csv", frames=6)
    return tmp_path / "0001_light_hand.csv"


def test_missing_and_not_finite_points_have_score_zero(skeleton: Path) -> None:
    rows = rows_of(skeleton)
    rows[0][1] = ""  # x of point 0
    rows[1][2] = "nan"  # y of point 0
    rows[2][3] = "NaN"  # score of point 0
    rows[3][1] = "inf"
    put_rows(skeleton, rows)
    keypoints, scores = files.read_skeleton_csv(skeleton, OPENPOSE35)
    assert np.isfinite(keypoints).all() and np.isfinite(scores).all()
    assert (scores[:4, 0] == 0).all() and (keypoints[:4, 0] == 0).all()
    assert (scores[4:, 0] > 0).all() and (scores[:, 1:] > 0).all()


def test_scores_a_little_over_one_are_clipped(skeleton: Path) -> None:
    rows = rows_of(skeleton)
    rows[0][3] = "1.043"
    assert files.read_skeleton_csv(put_rows(skeleton, rows), OPENPOSE35)[1][0, 0] == 1


@pytest.mark.parametrize("end", [b"", b"\r\n\r\n", b"\n"])
def test_line_ends_and_trailing_blank_lines_do_not_matter(skeleton: Path, end: bytes) -> None:
    expected = files.read_skeleton_csv(skeleton, OPENPOSE35)
    text = skeleton.read_bytes().rstrip()
    skeleton.write_bytes((text.replace(b"\n", b"\r\n") if end.startswith(b"\r") else text) + end)
    for found, right in zip(files.read_skeleton_csv(skeleton, OPENPOSE35), expected, strict=True):
        np.testing.assert_array_equal(found, right)


def change_cell(row: int, column: int, text: str):
    def change(rows: list[list[str]]) -> list[list[str]]:
        rows[row][column] = text
        return rows

    return change


@pytest.mark.parametrize(
    ("change", "row", "message"),
    [
        (change_cell(3, 7, "left"), 4, "column 8 holds 'left' where a number belongs"),
        (lambda rows: [["frame", *(f"c{i}" for i in range(105))], *rows], 1, "holds 'frame' where"),
        (lambda rows: [*rows[:2], rows[2][:-1], *rows[3:]], 3, "105 columns, but column map 'openpose35' expects 106"),
        (lambda rows: [*rows[:2], [*rows[2], "1"], *rows[3:]], 3, "107 columns"),
        (lambda rows: [*rows[:4], [""], *rows[4:]], 5, "1 columns"),
        (lambda rows: [row + ["0"] * 306 for row in rows], 1, "412 columns.*column_map='openpose137'"),
        (lambda rows: [row + ["0"] * 306 for row in rows], 1, "--column-map .* --set data.column_map=openpose137 "),
        (lambda rows: [[";".join(row)] for row in rows], 1, "1 columns.*commas, not by semicolons"),
        (lambda rows: [*rows[:2], rows[2][:-1], [*rows[3], "1"], *rows[4:]], 3, "105 columns"),
        (change_cell(5, 3, "57.2"), 6, "column 4 holds 57.2 where a score of 0..1 belongs"),
        (change_cell(0, 6, "-0.5"), 1, "column 7 holds -0.5 where a score"),
    ],
)
def test_a_bad_skeleton_file_is_told_by_row(skeleton: Path, change, row: int, message: str) -> None:
    put_rows(skeleton, change(rows_of(skeleton)))
    with pytest.raises(DataError, match=message) as caught:
        files.read_skeleton_csv(skeleton, OPENPOSE35)
    assert (caught.value.where, caught.value.row) == (skeleton, row)
    assert caught.value.hint


def numbered(rows: list[list[str]], numbers: Iterable[object]) -> list[list[str]]:
    """Rows for these frame numbers, the same over and over."""
    return [[str(number), *rows[0][1:]] for number in numbers]


@pytest.mark.parametrize(
    ("numbers", "row", "message"),
    [
        (sorted(range(1, 31), key=str), 2, "frame number 10 stands where 2 belongs: the rows are sorted as text"),
        ([1, 2, 4, 3, 5, 6], 3, "frame number 4 stands where 3 belongs: the rows are out of order"),
        ([0, 1, 2, 5, 6, 7], 4, "frame number 5 stands where 3 belongs: 2 rows are lost in between"),
        ([1, 2, 3, 3, 4, 5], 4, "frame number 3 stands where 4 belongs: 1 row is doubled"),
        ([*range(1, 21), *range(26, 41), *range(36, 41)], 21, "5 rows are lost in between, 5 rows are doubled"),
        ([5, 6, 7, 8], 1, "frame number 5 stands where 1 belongs: 4 rows are lost before the first"),
        (["1.0", "3.0", "5.0", "7.0"], 2, "frame number 3 stands where 2 belongs: 3 rows are lost in between"),
        ([1, 1, 2, 2, 3, 3], 2, "3 rows are doubled"),
        ([*range(9, -1, -1)], 1, "out of order"),
    ],
)
def test_rows_that_are_not_the_frames_in_their_order_are_refused(
    skeleton: Path, numbers: list[object], row: int, message: str
) -> None:
    put_rows(skeleton, numbered(rows_of(skeleton), numbers))
    for read in (files.read_skeleton_csv, files.count_skeleton_rows):
        with pytest.raises(DataError, match=message) as caught:
            read(skeleton, OPENPOSE35)
        assert (caught.value.where, caught.value.row) == (skeleton, row) and caught.value.hint


@pytest.mark.parametrize(
    "numbers",
    [
        range(6),
        range(1, 7),
        ["1.0", "2.0", "3.0"],
        [7] * 6,  # one person
        [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2],  # whom the tracker follows
        [-1, 3, 3, -1, 3],
        [0.0, 0.04, 0.08, 0.12],
        [0, 40, 80, 120, 160],  # thousandths of a second
        ["", "", ""],
        ["a", "b", "c"],
        [1, 3],  # too few to tell
        np.random.default_rng(0).integers(0, 101, 60),  # percent
    ],
)
def test_a_first_column_that_counts_nothing_says_nothing(skeleton: Path, numbers: Iterable[object]) -> None:
    numbers = list(numbers)
    put_rows(skeleton, numbered(rows_of(skeleton), numbers))
    assert len(files.read_skeleton_csv(skeleton, OPENPOSE35)[0]) == len(numbers)
    assert files.count_skeleton_rows(skeleton, OPENPOSE35) == len(numbers)


@quick
@given(st.permutations(range(1, 13)), st.integers(0, 1))
def test_only_one_order_of_the_frames_is_read(tmp_path: Path, order: list[int], first: int) -> None:
    path = tmp_path / "0001_light_hand.csv"
    put_rows(path, [[str(number - 1 + first), *["0"] * 105] for number in order])
    if order == sorted(order):
        assert files.count_skeleton_rows(path, OPENPOSE35) == 12
    else:
        with pytest.raises(DataError, match=r"out of order|sorted as text"):
            files.count_skeleton_rows(path, OPENPOSE35)


MARK = b"\xef\xbb\xbf"


def test_a_byte_order_mark_does_not_matter(skeleton: Path, tmp_path: Path) -> None:
    expected = files.read_skeleton_csv(skeleton, OPENPOSE35)
    skeleton.write_bytes(MARK + skeleton.read_bytes().replace(b"\n", b"\r\n"))
    for found, right in zip(files.read_skeleton_csv(skeleton, OPENPOSE35), expected, strict=True):
        np.testing.assert_array_equal(found, right)
    put_rows(skeleton, [rows_of(skeleton)[n] for n in (0, 2, 1, 3)])
    with pytest.raises(DataError, match="row 2: frame number 3"):  # the mark hides no number
        files.count_skeleton_rows(skeleton, OPENPOSE35)
    label = tmp_path / "0001_label.csv"
    for end in (b"\n", b"\r\n"):
        label.write_bytes(MARK + b"4,1,3" + end + b"99,5,9" + end)
        assert files.read_labels_csv(label) == [(3, 1, 3), (31, 5, 9)]
    label.write_bytes(MARK)
    assert files.read_labels_csv(label) == []


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_other_encodings_are_called_by_name(skeleton: Path, encoding: str) -> None:
    for path, text in ((skeleton, skeleton.read_text()), (skeleton.with_name("0001_label.csv"), "4,1,3\n99,5,9\n")):
        path.write_bytes(text.encode(encoding))
        with pytest.raises(DataError, match=r"is UTF-(16|32) text, not UTF-8\. Save it as UTF-8") as caught:
            (files.read_skeleton_csv(path, OPENPOSE35) if path == skeleton else files.read_labels_csv(path))
        assert caught.value.where == path


@pytest.mark.parametrize("content", [b"", b"\n \n", bytes(range(256)) * 20, "1,2,3".encode("utf-16")])
def test_what_is_no_table_is_refused(skeleton: Path, content: bytes) -> None:
    skeleton.write_bytes(content)
    for read in (files.read_skeleton_csv, files.count_skeleton_rows):
        with pytest.raises(DataError) as caught:
            read(skeleton, OPENPOSE35)
        assert caught.value.where == skeleton and caught.value.hint


def test_a_carriage_return_within_a_row_is_refused_and_at_its_end_is_none(skeleton: Path) -> None:
    rows = rows_of(skeleton)
    skeleton.write_bytes(b"\r\n".join(",".join(row).encode() for row in rows) + b"\r\n")
    assert files.count_skeleton_rows(skeleton, OPENPOSE35) == len(rows)
    put_rows(skeleton, change_cell(1, 7, "0\r0")(rows))
    for read in (files.read_skeleton_csv, files.count_skeleton_rows):
        with pytest.raises(DataError, match="carriage return") as caught:
            read(skeleton, OPENPOSE35)
        assert caught.value.row == 2


def test_what_only_a_lenient_reader_takes_for_a_number_is_refused(skeleton: Path) -> None:
    put_rows(skeleton, change_cell(1, 7, "1_0")(rows_of(skeleton)))
    with pytest.raises(DataError, match="no table of numbers"):
        files.read_skeleton_csv(skeleton, OPENPOSE35)


def test_a_missing_skeleton_file_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere.csv.*cannot be read"):
        files.read_skeleton_csv(tmp_path / "nowhere.csv", OPENPOSE35)


def test_the_full_openpose_set_is_read(tmp_path: Path) -> None:
    table = np.random.default_rng(0).random((3, 412)).round(3)
    np.savetxt(tmp_path / "a.csv", table, delimiter=",", fmt="%.3f")
    keypoints, scores = files.read_skeleton_csv(tmp_path / "a.csv", OPENPOSE137)
    assert keypoints.shape == (3, 22, 2)
    np.testing.assert_allclose(keypoints[:, 12], table[:, [1 + 3 * 99, 2 + 3 * 99]], atol=1e-6)
    np.testing.assert_allclose(scores[:, 21], table[:, 3 + 3 * 136], atol=1e-6)


@pytest.mark.parametrize(
    ("keypoints", "scores", "message"),
    [
        (np.zeros((2, 22, 2)), np.zeros((2, 22)), r"\[T, 35, 3\]"),
        (np.zeros((0, 35, 2)), np.zeros((0, 35)), r"\[T, 35, 3\]"),
        (np.full((2, 35, 2), np.nan), np.zeros((2, 35)), "row 1: a coordinate or score is not finite"),
    ],
)
def test_what_cannot_be_read_back_is_not_written(tmp_path: Path, keypoints, scores, message: str) -> None:
    with pytest.raises(DataError, match=message):
        files.write_skeleton_csv(tmp_path / "a.csv", keypoints, scores)
    assert not list(tmp_path.iterdir())


label_rows = st.lists(
    st.tuples(st.integers(0, 31), st.integers(1, 9000), st.integers(0, 500)).map(lambda r: (r[0], r[1], r[1] + r[2]))
)


@quick
@given(label_rows)
def test_labels_round_trip(tmp_path: Path, rows: list[tuple[int, int, int]]) -> None:
    files.write_labels_csv(tmp_path / "a.csv", rows)
    assert files.read_labels_csv(tmp_path / "a.csv") == rows


def test_raw_ids_and_frames_of_label_files(tmp_path: Path) -> None:
    path = tmp_path / "0001_label.csv"
    path.write_text("1,5,9\r\n32, 10 ,12.0\r\n99,13,13\r\n\r\n")
    assert files.read_labels_csv(path) == [(0, 5, 9), (31, 10, 12), (31, 13, 13)]
    assert files.read_labels_csv(path, first_frame=0)[0] == (0, 6, 10)
    files.write_labels_csv(path, [(31, 1, 2)])
    assert path.read_text() == "99,1,2\n"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("4,-3,9", "starts at frame -3, but frames count from 1"),
        ("4,0,9", "starts at frame 0.*first_frame=0"),
        ("4,0,9", "--first-frame 0 to check and doctor, --set data.first_frame=0 to the others"),
        ("4;1;3", "1 columns, but a label has.*commas, not by semicolons"),
        ("4\t1\t3", "commas, not by tabs"),
        ("4,9,3", "ends at frame 3, before its start 9"),
        ("33,1,3", "gesture id 33 is not one of"),
        ("0,1,3", "gesture id 0 is not one of"),
        ("-1,1,3", "gesture id -1 is not one of"),
        ("nose,1,3", "'nose,1,3' are not three whole numbers"),
        ("4,1.5,3", "are not three whole numbers"),
        ("4,nan,3", "are not three whole numbers"),
        ("4,1e400,3", "are not three whole numbers"),
        ("4,,3", "are not three whole numbers"),
        ("4,1", "2 columns, but a label has"),
        ("", "1 columns, but a label has"),
        ("4,1,3,5", "4 columns"),
    ],
)
def test_a_bad_label_row_is_told_by_row(tmp_path: Path, row: str, message: str) -> None:
    path = tmp_path / "0001_label.csv"
    path.write_text(f"1,1,2\n{row}\n3,4,5\n")
    with pytest.raises(DataError, match=message) as caught:
        files.read_labels_csv(path)
    assert (caught.value.where, caught.value.row) == (path, 2)
    kinds = [isinstance(each, DataError) for each in files.scan_labels_csv(path)]
    assert kinds == [False, True, False]


def test_a_missing_label_file_and_one_of_bytes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="label file cannot be read"):
        files.read_labels_csv(tmp_path / "nowhere.csv")
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe1,2,3")
    with pytest.raises(DataError, match="whole numbers"):
        files.read_labels_csv(tmp_path / "a.csv")


@pytest.mark.parametrize("row", [(32, 1, 2), (3, 0, 2), (3, 5, 4)])
def test_wrong_labels_are_not_written(tmp_path: Path, row: tuple[int, int, int]) -> None:
    with pytest.raises(DataError):
        files.write_labels_csv(tmp_path / "a.csv", [(1, 1, 2), row])
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_a_storage_error_and_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "0001_light_hand.csv"
    write_skeleton(path, frames=2)
    before = path.read_bytes()
    with full_disk(4000), pytest.raises(StorageError, match=str(path)) as caught:
        write_skeleton(path, frames=400)
    assert caught.value.hint
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError):
        files.write_labels_csv(tmp_path / "file" / "0001_label.csv", [(1, 1, 2)])
