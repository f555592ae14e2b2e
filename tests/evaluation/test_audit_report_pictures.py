import math
import re
from dataclasses import replace
from itertools import pairwise

import matplotlib
import pytest
from hypothesis import given
from hypothesis import strategies as st

import audit_samples
from tercet.evaluation.audit_report import cost_pictures, layer_picture, quality_pictures, wording
from tercet.evaluation.audit_report.axes import LogScale
from tercet.evaluation.audit_report.canvas import Picture
from tercet.evaluation.audit_report.palette import DARK, LIGHT, SCHEME_COLOURS, sentinel, with_variables
from tercet.evaluation.audit_report.placing import Box, apart, place_labels
from tercet.evaluation.audit_report.schemes import View

HEADS = ("dense", "sparse", "multivector", "combined")


def pictures(view: View) -> list[Picture]:
    found = (
        quality_pictures.drift_picture(view),
        quality_pictures.metric_picture(view),
        quality_pictures.ranking_picture(view),
        quality_pictures.query_picture(view),
        cost_pictures.speed_picture(view),
        cost_pictures.memory_picture(view),
        cost_pictures.stored_picture(view),
        layer_picture.layer_picture(view),
    )
    return [picture for picture in found if picture is not None]


def luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_text_and_marks_stand_out_from_what_is_behind_them(colours: dict[str, str]) -> None:
    for text in ("ink", "muted", "link", "good", "bad"):
        assert min(contrast(colours[text], colours[back]) for back in ("paper", "panel")) >= 4.5, text
    assert contrast(colours["ink"], colours["good-back"]) >= 4.5
    assert contrast(colours["bad"], colours["bad-back"]) >= 4.5
    assert contrast(colours["paper"], colours["good"]) >= 4.5
    for mark in (*SCHEME_COLOURS, "reference"):
        assert contrast(colours[mark], colours["paper"]) >= 3.0, mark


# Linear RGB as someone without long, or without medium, cones sees it (Viénot, Brettel & Mollon 1999).
BLINDNESS = {
    "protan": ((0.11238, 0.88762, 0.0), (0.11238, 0.88762, 0.0), (0.00401, -0.00401, 1.0)),
    "deutan": ((0.29275, 0.70725, 0.0), (0.29275, 0.70725, 0.0), (-0.02234, 0.02234, 1.0)),
}


def seen(colour: str, matrix: tuple[tuple[float, float, float], ...]) -> tuple[float, float, float]:
    """CIE L*a*b* (D65)."""
    linear = []
    for start in (1, 3, 5):
        part = int(colour[start : start + 2], 16) / 255
        linear.append(part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4)
    red, green, blue = (
        min(1.0, max(0.0, sum(w * p for w, p in zip(row, linear, strict=True)))) for row in matrix
    )
    xyz = (
        (0.4124 * red + 0.3576 * green + 0.1805 * blue) / 0.9505,
        0.2126 * red + 0.7152 * green + 0.0722 * blue,
        (0.0193 * red + 0.1192 * green + 0.9505 * blue) / 1.089,
    )
    x, y, z = (part ** (1 / 3) if part > 0.008856 else 7.787 * part + 16 / 116 for part in xyz)
    return 116 * y - 16, 500 * (x - y), 200 * (y - z)


@pytest.mark.parametrize("kind", BLINDNESS)
@pytest.mark.parametrize("colours", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_of_schemes_stay_apart_without_red_or_green(colours: dict[str, str], kind: str) -> None:
    found = [seen(colours[name], BLINDNESS[kind]) for name in SCHEME_COLOURS]

    distances = [math.dist(one, other) for place, one in enumerate(found) for other in found[:place]]
    assert min(distances) > 14.0  # 2 can just be told apart side by side


@pytest.mark.parametrize("schemes", [1, 4, 8])
def test_pictures_take_their_colours_from_the_page_and_leave_the_library_as_it_was(schemes: int) -> None:
    before = dict(matplotlib.rcParams)

    found = pictures(View.of(audit_samples.result(schemes, HEADS)))

    assert dict(matplotlib.rcParams) == before
    for picture in found:
        assert not re.search(r"#[0-9a-f]{6}", picture.svg), picture.name
        assert "font-family" not in picture.svg
        assert picture.description
    ids = [identity for picture in found for identity in re.findall(r' id="([^"]+)"', picture.svg)]
    assert len(ids) == len(set(ids))


def test_a_scheme_has_the_same_colour_wherever_it_is() -> None:
    view = View.of(audit_samples.result(8, ("dense",), failed=(2,)))

    assert [scheme.colour for scheme in view.schemes] == ["reference", *SCHEME_COLOURS[:7]]
    for picture in (quality_pictures.drift_picture(view), cost_pictures.memory_picture(view)):
        assert picture is not None
        used = set(re.findall(r"var\(--(s\d|reference)\)", picture.svg))
        assert used == {scheme.colour for scheme in view.schemes} - {view.schemes[2].colour}


def test_pictures_are_the_same_when_they_are_drawn_again() -> None:
    view = View.of(audit_samples.result(2))

    assert pictures(view) == pictures(view)


def test_a_picture_that_has_nothing_to_show_is_left_out() -> None:
    nothing = audit_samples.result(1, judged=False, ranked=False, layers=0)

    assert {picture.name for picture in pictures(View.of(nothing))} == {"drift", "memory"}


def test_a_drift_of_exactly_zero_has_a_place_of_its_own() -> None:
    sample = audit_samples.result(2)
    exact = replace(
        sample.rows[0],
        drift_mean=0.0,
        drift_p50=0.0,
        drift_p99=0.0,
        drift_worst=0.0,
        drift_histogram=((0.0, 0.0, 1400),),
    )
    picture = quality_pictures.drift_picture(View.of(replace(sample, rows=(exact, sample.rows[1]))))

    assert picture is not None
    assert ">0</text>" in picture.svg
    assert "float32, dense: p50 0, p99 0, worst 0." in picture.description


def test_layers_are_drawn_in_the_colour_of_the_scheme_that_they_name() -> None:
    sample = audit_samples.result(4)
    other = "float16 (native_cpu)"
    layers = tuple(replace(layer, drift={other: 1e-6}, unsafe=()) for layer in sample.layers)

    view = View.of(replace(sample, layers=layers))
    picture = layer_picture.layer_picture(view)

    assert picture is not None
    assert set(re.findall(r"var\(--(s\d)\)", picture.svg)) == {view.schemes[2].colour}
    without = tuple(replace(layer, drift={}) for layer in layers)
    bare = layer_picture.layer_picture(View.of(replace(sample, layers=without)))
    assert bare is not None
    assert bare.caption.startswith("The largest activation on the sample")


def test_names_of_schemes_in_pictures_are_short_and_differ() -> None:
    sample = audit_samples.result(8)
    long = tuple(
        replace(row, label="a label that goes on and on and on and on", float32_layers=(place,))
        for place, row in enumerate(sample.rows)
    )

    for rows in (sample.rows, long):
        names = [scheme.short for scheme in View.of(replace(sample, rows=rows)).schemes]
        assert len(set(names)) == 8
        assert max(map(len, names)) <= 34


points = st.lists(st.tuples(st.floats(0.3, 4.7), st.floats(0.3, 2.7)), min_size=1, max_size=8)


@given(points, st.floats(0.2, 1.6))
def test_placed_labels_lie_on_no_other_and_on_no_mark(found: list[tuple[float, float]], width: float) -> None:
    room = Box(0.0, 0.0, 5.0, 3.0)
    line = Box(2.5, 0.0, 0.04, 3.0)

    boxes = place_labels(found, [(width, 0.14)] * len(found), room, 0.08, [line])

    if boxes is not None:
        marks = [Box(x - 0.08, y - 0.08, 0.16, 0.16) for x, y in found]
        for place, box in enumerate(boxes):
            assert box.within(room)
            assert not any(map(box.touches, [line, *marks, *boxes[:place]]))


def test_labels_of_eight_equal_points_find_no_place_or_one_each() -> None:
    room = Box(0.0, 0.0, 5.0, 3.0)

    assert place_labels([(2.0, 1.0)] * 8, [(9.0, 0.14)] * 8, room, 0.08) is None
    boxes = place_labels([(2.0, 1.5)] * 8, [(0.8, 0.14)] * 8, room, 0.08)
    assert boxes is not None
    assert len(set(boxes)) == 8


@given(st.lists(st.floats(-5.0, 5.0), min_size=1, max_size=12), st.floats(0.01, 2.0))
def test_positions_are_moved_apart_in_their_order_around_where_they_were(
    wanted: list[float], gap: float
) -> None:
    placed = apart(wanted, gap)

    ordered = sorted(placed)
    assert all(after - before >= gap - 1e-9 for before, after in pairwise(ordered))
    for one in range(len(wanted)):
        for other in range(len(wanted)):
            if wanted[one] < wanted[other]:
                assert placed[one] < placed[other]
    assert sum(placed) == pytest.approx(sum(wanted), abs=1e-6)


def test_points_whose_names_have_no_room_beside_them_get_a_column_of_names() -> None:
    sample = audit_samples.result(8)
    crowded = tuple(
        replace(row, label=f"a scheme with a long name {place}", drift_p99=1e-4, texts_per_second=100.0)
        for place, row in enumerate(sample.rows)
    )

    picture = cost_pictures.speed_picture(View.of(replace(sample, rows=crowded)))

    assert picture is not None
    heights = [
        float(re.search(r' y="([\d.]+)"', text)[1])  # type: ignore[index]
        for text in re.findall(r"<text[^>]*>a scheme with[^<]*</text>", picture.svg)
    ]
    assert len(heights) == 8
    ordered = sorted(heights)
    assert all(after - before > 8.0 for before, after in pairwise(ordered))


@given(st.lists(st.floats(0.0, 2.0), max_size=20))
def test_every_value_has_a_place_on_a_scale_of_at_most_eight_powers(values: list[float]) -> None:
    scale = LogScale.of(values)

    assert 1 <= scale.high - scale.low <= 8
    for value in values:
        place = scale.at(value)
        assert scale.low <= place <= scale.high + 1e-9 or (place == scale.below_at and scale.below)


def test_colours_come_back_as_variables() -> None:
    assert (
        with_variables(f"fill: {sentinel('s3')}; stroke: {sentinel('ink')}")
        == "fill: var(--s3); stroke: var(--ink)"
    )


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (wording.drift(3.7e-4), "3.70·10⁻⁴"),
        (wording.drift(0.0), "0"),
        (wording.drift(None), "–"),
        (wording.drift(math.nan), "–"),
        (wording.drift(math.inf), "∞"),
        (wording.share(0.99999), "<1"),
        (wording.share(1.0), "1.0000"),
        (wording.share(0.00001), ">0"),
        (wording.share(-0.25), "−0.2500"),
        (wording.signed(0.0012), "+0.0012"),
        (wording.signed(-6e-7), "−6·10⁻⁷"),
        (wording.signed(0.0), "0"),
        (wording.p_value(0.0004), "<0.001"),
        (wording.p_value(0.0123), "0.012"),
        (wording.p_value(0.432), "0.43"),
        (wording.rate(1234.5), "1,234"),
        (wording.rate(56.72), "56.7"),
        (wording.rate(0.1234), "0.123"),
        (wording.rate(0.0), "0"),
        (wording.magnitude(71_204.0), "71,204"),
        (wording.magnitude(4.1e-7), "4.10·10⁻⁷"),
        (wording.times(1.838), "1.84×"),
        (wording.seconds(0.42), "0.42 s"),
        (wording.seconds(185.0), "3 min 5 s"),
        (wording.seconds(7260.0), "2 h 1 min"),
        (wording.size(384), "384 B"),
        (wording.size(1536), "1.54 kB"),
        (wording.size(412_300_000), "412 MB"),
        (wording.size(2.27e9), "2.27 GB"),
        (wording.excerpt("one  two\nthree four", 12), "one two …"),
        (wording.plain_value(["a", True, None, 0.002, {"b": 20_000}]), "a, yes, none, 0.002, b 20,000"),
    ],
)
def test_numbers_are_written_as_people_read_them(written: str, expected: str) -> None:
    assert written == expected
