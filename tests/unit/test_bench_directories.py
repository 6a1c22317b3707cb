"""The pure parts of the directory lines: trees and the room that they take, scales, labels and the picture's points."""

import math
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from bench.curves import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    Curve,
    Scale,
    build_picture,
    build_scales,
    round_down,
    round_steps,
    round_up,
    spread,
)
from bench.lines.directories import RM
from bench.throughput import THREADS, build_curves, build_table
from bench.trees import Tree, WorkNotDoneError, chain, flat, require_empty, room_needed, wide

SVG = "{http://www.w3.org/2000/svg}"
CURVES = [
    Curve("0.5 ms", [(1, 900.0), (8, 7000.0), (64, 21_000.0)], "rm -rf, 0.5 ms", 880.0),
    Curve("2 ms", [(1, 240.0), (8, 1900.0), (64, 12_000.0)], "rm -rf, 2 ms", 190.0),
]


@pytest.mark.parametrize(
    ("tree", "files", "depth"),
    [
        pytest.param(wide(3, 4), 12, 2, id="side by side"),
        pytest.param(chain(5, 2), 10, 6, id="each in the one before"),
        pytest.param(flat(7), 7, 1, id="all in the top"),
    ],
)
def test_a_tree_has_the_files_and_bytes_that_it_says(tmp_path: Path, tree: Tree, files: int, depth: int) -> None:
    tree.make(tmp_path / "top")

    found = [path for path in (tmp_path / "top").rglob("*") if path.is_file()]
    assert len(found) == tree.file_count == files
    assert sum(path.stat().st_size for path in found) == tree.byte_count == files * 5
    assert max(len(path.relative_to(tmp_path / "top").parts) for path in found) == depth


def test_a_tree_of_empty_files_has_no_bytes(tmp_path: Path) -> None:
    tree = flat(3, content=b"")
    tree.make(tmp_path / "top")

    assert [path.stat().st_size for path in (tmp_path / "top").iterdir()] == [0, 0, 0]
    assert tree.byte_count == 0


def test_a_tree_is_never_made_into_one_that_is_there(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        flat(1).make(tmp_path)


@pytest.mark.parametrize(
    ("tree", "pages", "inodes"),
    [
        pytest.param(wide(2, 3), 8, 9, id="a page for each file and directory"),
        pytest.param(flat(3, content=b""), 1, 5, id="empty files take no page"),
        pytest.param(flat(3, content=b"x" * 4097), 7, 5, id="a page is begun"),
    ],
)
def test_room_is_counted_in_whole_pages(tree: Tree, pages: int, inodes: int) -> None:
    room = room_needed(tree)

    assert (room.bytes, room.inodes) == (pages * 4096, inodes)


def test_a_contestant_that_leaves_something_has_not_done_its_work(tmp_path: Path) -> None:
    require_empty(tmp_path, "rm -rf")
    (tmp_path / ".hidden").touch()

    with pytest.raises(WorkNotDoneError, match="rm -rf left 1"):
        require_empty(tmp_path, "rm -rf")


@pytest.mark.parametrize(
    ("figure", "pixel"),
    [(1, 0), (10, 50), (100, 100), (math.sqrt(10), 25)],
)
def test_a_scale_places_figures_by_their_logarithm(figure: float, pixel: float) -> None:
    assert Scale(1, 100, 0, 100).place(figure) == pytest.approx(pixel)


@pytest.mark.parametrize(
    ("figure", "below", "above"),
    [(880, 500, 1000), (1000, 1000, 2000), (1999, 1000, 2000), (0.3, 0.2, 0.5), (5, 5, 10), (9.9, 5, 10)],
)
def test_round_numbers_enclose_a_figure(figure: float, below: float, above: float) -> None:
    assert round_down(figure) == pytest.approx(below)
    assert round_up(figure) == pytest.approx(above)


def test_an_axis_has_a_tick_at_every_round_number() -> None:
    assert round_steps(200, 5000) == pytest.approx([200, 500, 1000, 2000, 5000])


def test_the_scales_hold_every_point_and_every_reference() -> None:
    x, y = build_scales(CURVES)

    assert [x.place(1), x.place(64)] == pytest.approx([LEFT, RIGHT])
    assert (y.low, y.high) == (100, 50_000)
    assert TOP < y.place(21_000) < y.place(190) < BOTTOM


@pytest.mark.parametrize("curves", [[], [Curve("0 ms", [], "rm -rf", 1.0)]], ids=["none", "no points"])
def test_a_picture_of_nothing_is_refused(curves: list[Curve]) -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        build_picture("title", "subtitle", curves)


def test_a_speed_of_nought_has_no_place() -> None:
    with pytest.raises(ValueError, match="not above 0"):
        build_picture("title", "subtitle", [Curve("0 ms", [(1, 0.0), (2, 5.0)], "rm -rf", 1.0)])


def test_more_curves_than_colours_are_refused() -> None:
    with pytest.raises(ValueError, match="colours"):
        build_picture("title", "subtitle", CURVES * 4)


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        pytest.param([10, 50], [10, 50], id="far apart: as they are"),
        pytest.param([50, 10], [50, 10], id="in any order"),
        pytest.param([10, 10], [5, 15], id="together: around their middle"),
        pytest.param([10, 12, 17], [3, 13, 23], id="a group pushes the next"),
        pytest.param([0, 11, 12], [-2.33, 7.67, 17.67], id="a group pushes the one before"),
    ],
)
def test_labels_keep_their_distance(places: list[float], expected: list[float]) -> None:
    assert spread(places, 10) == pytest.approx(expected, abs=0.01)


def test_the_picture_has_a_line_with_all_points_and_a_dashed_one_for_each_latency() -> None:
    root = ET.fromstring(build_picture("Files & more", "100 directories", CURVES))

    lines = root.findall(f"{SVG}polyline")
    assert [len((line.get("points") or "").split()) for line in lines] == [3, 3]
    assert len(root.findall(f"{SVG}circle")) == 6
    dashed = [line for line in root.findall(f"{SVG}line") if line.get("stroke-dasharray")]
    assert [line.get("stroke") for line in dashed] == [line.get("stroke") for line in lines]
    _, y = build_scales(CURVES)
    assert [float(line.get("y1") or 0) for line in dashed] == pytest.approx([y.place(880), y.place(190)], abs=0.1)
    texts = {text.text for text in root.findall(f"{SVG}text")}
    assert texts >= {"Files & more", "threads, at most", "files per second", "2 ms", "rm -rf, 2 ms", "64", "1,000"}


def test_more_files_per_second_are_higher_up_and_more_threads_further_right() -> None:
    root = ET.fromstring(build_picture("title", "subtitle", CURVES))

    points = [tuple(map(float, point.split(","))) for point in (root.find(f"{SVG}polyline").get("points")).split()]  # type: ignore[union-attr]
    assert points == sorted(points, key=lambda point: (point[0], -point[1]))
    assert points[0][1] > points[-1][1]


def test_the_table_and_the_curves_hold_the_same_figures() -> None:
    speeds = {threads: 100.0 * threads for threads in THREADS} | {RM: 90.0}
    head, row = build_table({0.5: speeds}).splitlines()

    assert head.split()[:7] == [str(threads) for threads in THREADS]
    assert row.split() == ["0.5", "ms", *(str(100 * threads) for threads in THREADS), "90"]
    assert build_curves({0.5: speeds}) == [
        Curve("0.5 ms", [(threads, 100.0 * threads) for threads in THREADS], "rm -rf, 0.5 ms", 90.0)
    ]
