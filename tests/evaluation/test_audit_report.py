import json
import re
import sys
from dataclasses import fields, replace
from datetime import UTC, datetime
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest

import audit_samples
from tercet.errors import InputError, MissingExtraError, OutputError
from tercet.evaluation.audit_report import check_report, tables, wording, write_report
from tercet.evaluation.audit_report.page import html_page
from tercet.evaluation.audit_report.schemes import View
from tercet.evaluation.audit_report.verdict_card import verdict_card
from tercet.evaluation.audit_report.wrong_tables import tensors_table
from tercet.evaluation.audit_result import AuditResult, WorstText

VOID = {"meta", "br", "hr", "img", "link", "input"}
HEADS = ("dense", "sparse", "multivector", "combined")
WRITTEN = datetime(2026, 3, 14, 15, 9, tzinfo=UTC)
SCRIPT = "<script>alert('x')</script>"


class Page(HTMLParser):
    """What a browser would see: tags, ids, texts, rows of tables; it complains of what is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.rows: list[list[str]] = []
        self.style = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert "svg" in self.open, f"<{tag}/> closes itself outside of a picture"
        self.note(tag, attrs)

    def note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert len(found) == len(attrs), f"{tag} has an attribute twice"
        self.tags.append((tag, found))
        if found.get("id"):
            self.ids.append(str(found["id"]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            self.style += data
            return
        self.words.append(data)
        if "td" in self.open or ("th" in self.open and "tr" in self.open):
            self.rows[-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@cache
def html_of(name: str) -> str:
    return html_page(RESULTS[name], WRITTEN, "audit.json")


def page_of(result: AuditResult | str) -> Page:
    if isinstance(result, str):
        return Page(html_of(result))
    return Page(html_page(result, WRITTEN, "audit.json"))


RESULTS = {
    "one scheme without queries": audit_samples.result(1, judged=False, ranked=False, layers=0),
    "four schemes, one fails": audit_samples.result(4, failed=(3,)),
    "eight schemes, all heads": audit_samples.result(8, HEADS, layers=24, failed=(2,)),
    "queries without judgements": audit_samples.result(5, HEADS[:3], judged=False, budget="overlap>=0.99"),
    "all but the reference fail": audit_samples.result(3, ("dense",), failed=(1, 2)),
}


@pytest.mark.parametrize("name", RESULTS)
def test_a_page_is_well_formed_and_needs_nothing_from_elsewhere(name: str) -> None:
    html = html_of(name)
    page = Page(html)

    assert len(page.ids) == len(set(page.ids))
    assert "://" not in html.replace("http://www.w3.org/", "")
    assert not {tag for tag, _ in page.tags} & {
        "script",
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "use-css",
    }
    assert "@import" not in page.style
    assert "url(" not in page.style
    for tag, attributes in page.tags:
        assert not [attribute for attribute in attributes if attribute.startswith("on")]
        for reference in (attributes.get("href"), attributes.get("aria-labelledby")):
            for part in (reference or "").split():
                if part != "audit.json":
                    assert part.removeprefix("#") in page.ids, (tag, part)
        for clip in re.findall(r"url\(#([^)]*)\)", " ".join(value or "" for value in attributes.values())):
            assert clip in page.ids


@pytest.mark.parametrize("name", RESULTS)
def test_every_heading_of_a_table_has_a_scope_and_every_picture_says_what_it_shows(name: str) -> None:
    page = page_of(name)

    headings = [attributes for tag, attributes in page.tags if tag == "th"]
    assert headings
    assert {attributes.get("scope") for attributes in headings} <= {"col", "row", "rowgroup"}
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert pictures
    assert all(attributes["role"] == "img" and attributes["aria-labelledby"] for attributes in pictures)
    assert len(pictures) == [tag for tag, _ in page.tags].count("desc")


def test_rows_of_a_table_are_as_wide_as_its_head() -> None:
    for name in RESULTS:
        for table in re.findall(r"<table>.*?</table>", html_of(name), re.DOTALL):
            rows = [
                re.findall(r"<t[dh]([^>]*)>", row) for row in re.findall(r"<tr>.*?</tr>", table, re.DOTALL)
            ]
            taken = [0] * len(rows)
            for place, cells in enumerate(rows):
                for cell in cells:
                    down, across = (
                        int(found[1]) if (found := re.search(rf'{kind}="(\d+)"', cell)) else 1
                        for kind in ("rowspan", "colspan")
                    )
                    for row in range(place, place + down):
                        taken[row] += across
            assert set(taken) == {taken[0]}, (name, table[:200])


def test_the_page_says_every_row_setting_version_and_note() -> None:
    result, page = RESULTS["eight schemes, all heads"], page_of("eight schemes, all heads")

    for row in result.rows:
        assert row.engine in page.text
        if row.drift_worst is not None:
            for value in (row.drift_p50, row.drift_p99, row.drift_worst, row.drift_mean):
                assert wording.drift(value) in page.text
        for metric in row.metrics:
            assert wording.share(metric.value) in page.text
            assert wording.signed(metric.change) in page.text
        assert row.texts_per_second is None or wording.rate(row.texts_per_second) in page.text
    for stored in result.stored:
        assert wording.share(stored.overlap_at_10) in page.text
        assert wording.size(stored.bytes_per_text) in page.text
    for name, value in [*result.settings.items(), *result.machine.items(), *result.texts.items()]:
        assert name.replace("_", " ") in page.text
        assert wording.plain_value(value) in page.text
    for layer in result.layers:
        assert layer.sentence in page.text
    for said in (
        *result.versions.values(),
        *result.notes,
        *result.verdict.others,
        result.verdict.reason,
        result.verdict.budget,
        result.weights_sha256,
        "14 March 2026",
        "6 min 58 s",
    ):
        assert said in page.text


def test_a_row_of_the_first_table_has_its_own_numbers() -> None:
    page = page_of("four schemes, one fails")

    row = next(row for row in page.rows if row and row[0].startswith("float16native_cpu"))
    assert row == [
        "float16native_cpuverdict",
        "Dense",
        "2.61·10⁻⁷",
        "8.12·10⁻⁷",
        "2.03·10⁻⁶",
        "0.9980",
        "+0.0004[−0.0002, +0.0010]",
        "0.43",
        "1971.62×",
        "0.47",
        "244 MB",
        "1.54 kB",
    ]


def test_a_scheme_that_does_not_run_says_why_and_is_in_no_picture() -> None:
    result, page = RESULTS["four schemes, one fails"], page_of("four schemes, one fails")

    assert f"Does not run here: {result.rows[3].failure}" in page.text
    descriptions = html_of("four schemes, one fails").split("<desc")[1:]
    assert not [words for words in descriptions if "bfloat16" in words.split("</desc>")[0]]


def test_names_and_texts_that_look_like_markup_stay_text() -> None:
    nasty = f'{SCRIPT} & "quotes" $\\frac{{1}}{{2}}$ ]]> --> </style> \x00 \ud800'
    sample = audit_samples.result(4, ("dense",), model=nasty)
    rows = tuple(
        replace(row, label=f"{SCRIPT}{place}", engine=nasty, worst_texts=(WorstText(nasty, nasty, 0.5),))
        for place, row in enumerate(sample.rows)
    )
    result = replace(
        sample,
        rows=rows,
        settings={nasty: nasty},
        notes=(nasty,),
        machine={"name": nasty},
        texts={nasty: [nasty]},
        versions={"tercet": nasty},
        layers=tuple(replace(layer, layer=nasty, sentence=nasty) for layer in sample.layers),
        tensors=tuple(replace(tensor, name=nasty) for tensor in sample.tensors),
        verdict=replace(sample.verdict, label=rows[1].label, engine=nasty, reason=nasty, others=(nasty,)),
    )

    html = html_page(result, WRITTEN, "audit.json")

    page = Page(html)
    assert "script" not in {tag for tag, _ in page.tags}
    assert page.text.count(SCRIPT) > 20
    assert not re.search("[\x00\ud800]", html)


def test_a_page_marks_the_verdict_and_says_where_nothing_was_decided() -> None:
    sample = RESULTS["four schemes, one fails"]
    decided = page_of("four schemes, one fails")
    undecided = verdict_card(View.of(replace(sample, verdict=replace(sample.verdict, decided=False))))

    assert [tag for tag, attributes in decided.tags if attributes.get("class") == "best"] == ["tbody"] * 3
    assert "Undecided" not in decided.text
    assert "Take float16 (native_cpu)." in decided.text
    assert "Stay with float16 (native_cpu) for now." in undecided
    assert "Undecided: others disturbed the timing" in undecided


def test_a_disturbed_timing_is_marked() -> None:
    sample = audit_samples.result(2)
    disturbed = replace(sample, rows=(sample.rows[0], replace(sample.rows[1], quiet=False)))

    quiet, marked = (tables.schemes_table(View.of(result)) for result in (sample, disturbed))
    assert "†" not in quiet
    assert "86.2 †" in marked
    assert "† Others disturbed this timing" in marked


def test_of_many_tensors_those_that_lose_most_are_shown_and_the_rest_is_counted() -> None:
    sample = audit_samples.result(2)
    tensors = tuple(
        replace(sample.tensors[0], name=f"tensor {place}", zeroed=place, format=form)
        for form in ("float16", "int8")
        for place in range(100)
    )

    table = tensors_table(View.of(replace(sample, tensors=tensors)))

    assert table is not None
    assert table.count(">tensor 99<") == 2
    assert ">tensor 3<" not in table
    assert "160 more that lose less are in the JSON" in table


def test_a_row_of_which_nothing_is_known_is_written_with_dashes() -> None:
    sample = audit_samples.result(2)
    kept = {"label", "engine", "head"}
    row = sample.rows[1]
    empty = type(row)(**{field.name: getattr(row, field.name) for field in fields(row) if field.name in kept})

    page = page_of(replace(sample, rows=(sample.rows[0], empty), stored=(), layers=(), tensors=()))

    assert ["float16torch_packed", "Dense", *["–"] * 10] in [
        [part.replace("––", "–") for part in row] for row in page.rows
    ]


def test_a_report_is_written_beside_its_json_which_reads_back(tmp_path: Path) -> None:
    result = RESULTS["eight schemes, all heads"]

    written = write_report(result, tmp_path / "new" / "out")

    assert written == tmp_path / "new" / "out" / "index.html"
    assert sorted(path.name for path in written.parent.iterdir()) == ["audit.json", "index.html"]
    assert Page(written.read_text(encoding="utf-8")).text.count(result.model) > 1
    data = json.loads((written.parent / "audit.json").read_text(encoding="utf-8"))
    finite = replace(result, tensors=result.tensors[:1])
    data["tensors"] = data["tensors"][:1]  # the other has an infinite error, which JSON does not know
    assert AuditResult.from_json(data) == finite


def test_numbers_that_json_does_not_have_become_null(tmp_path: Path) -> None:
    write_report(RESULTS["one scheme without queries"], tmp_path)

    data = json.loads((tmp_path / "audit.json").read_text(), parse_constant=pytest.fail)
    assert data["tensors"][1]["worst_error"] is None


def test_a_report_takes_the_place_of_an_earlier_one_and_of_nothing_else(tmp_path: Path) -> None:
    def small(model: str) -> AuditResult:
        return audit_samples.result(1, judged=False, ranked=False, layers=0, model=model)

    write_report(small("one"), tmp_path)
    write_report(small("another"), tmp_path)
    assert "another" in (tmp_path / "index.html").read_text(encoding="utf-8")

    (tmp_path / "audit.json").write_text("[]")
    with pytest.raises(InputError, match="no report of an audit") as caught:
        write_report(small("a third"), tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "Name a new or empty folder" in str(caught.value)
    assert "another" in (tmp_path / "index.html").read_text(encoding="utf-8")

    (tmp_path / "thesis.tex").write_text("mine")
    write_report(small("a third"), tmp_path, overwrite=True)
    assert "a third" in (tmp_path / "index.html").read_text(encoding="utf-8")
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_a_place_where_no_folder_can_be_is_refused_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")

    for place in ("file", "link"):
        with pytest.raises(InputError, match="is no folder") as caught:
            check_report(tmp_path / place)
        assert str(tmp_path / place) in str(caught.value)
    with pytest.raises(InputError, match="is a file, so no folder can be made there"):
        check_report(tmp_path / "file" / "deeper" / "out")


def test_a_folder_that_may_not_be_written_to_is_refused_at_the_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere

    with pytest.raises(OutputError, match="may not be written to") as caught:
        check_report(tmp_path / "out")
    assert str(tmp_path) in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_without_matplotlib_a_report_is_refused_with_the_install_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(MissingExtraError, match=re.escape("pip install 'tercet[report]'")):
        check_report(tmp_path)


def test_nothing_is_left_of_a_report_that_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tercet.evaluation.audit_report import folder as module

    def full(path: Path) -> None:
        if path.name == "index.html":
            raise OutputError(f"{path}: The disk is full")
        return real(path)

    real = module.Aside
    monkeypatch.setattr(module, "Aside", full)

    with pytest.raises(OutputError, match="disk is full"):
        write_report(audit_samples.result(1), tmp_path)
    assert list(tmp_path.iterdir()) == []
