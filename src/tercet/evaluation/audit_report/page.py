"""The page: one file of HTML with its style and pictures in it, that needs nothing else."""

from __future__ import annotations

__all__ = ["html_page"]

from datetime import datetime
from importlib.resources import files

from tercet.evaluation.audit_report import cost_pictures, quality_pictures, tables, wrong_tables
from tercet.evaluation.audit_report.canvas import Picture
from tercet.evaluation.audit_report.glossary import GLOSSARY
from tercet.evaluation.audit_report.layer_picture import layer_picture
from tercet.evaluation.audit_report.markup import Markup, element, folded, joined
from tercet.evaluation.audit_report.palette import DARK, LIGHT, variables
from tercet.evaluation.audit_report.schemes import View
from tercet.evaluation.audit_report.settings_list import facts_line, settings_lists
from tercet.evaluation.audit_report.verdict_card import verdict_card
from tercet.evaluation.audit_result import AuditResult

_SANS = 'system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue","Noto Sans",Arial,sans-serif'


def html_page(result: AuditResult, written: datetime, json_name: str) -> str:
    """The whole page.

    Args:
        result: what it is about.
        written: the date and time in its head.
        json_name: the file beside it that has every number.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    view = View.of(result)
    sections = _sections(view, json_name)
    links = [element("li", {}, element("a", {"href": f"#{name}"}, title)) for name, title, _ in sections]
    day = f"{written:%-d %B %Y}"
    head = joined(
        Markup('<meta charset="utf-8">'),
        Markup('<meta name="viewport" content="width=device-width,initial-scale=1">'),
        Markup('<meta name="color-scheme" content="light dark">'),
        Markup('<meta name="generator" content="tercet audit">'),
        element("title", {}, f"{result.model}: what a precision costs, {day}"),
        Markup(f"<style>{_style()}</style>"),
    )
    top = element(
        "header",
        {"class": "top"},
        element("p", {"class": "kicker"}, "Tercet audit · what a precision costs"),
        element("h1", {}, result.model),
        element(
            "p",
            {"class": "facts"},
            element("time", {"datetime": written.isoformat()}, day),
            " · ",
            facts_line(result),
        ),
        element("nav", {"aria-label": "Sections"}, element("ul", {}, *links)),
    )
    main = element(
        "main",
        {"id": "main"},
        verdict_card(view),
        *(
            element("section", {"aria-labelledby": name}, element("h2", {"id": name}, title), content)
            for name, title, content in sections
        ),
    )
    version = result.versions.get("tercet", "")
    footer = element(
        "footer",
        {},
        f"Written by tercet {version} on {written:%Y-%m-%d %H:%M %Z}. Every number of this page, and more, "
        f"is in ",
        element("a", {"href": json_name}, json_name),
        " beside it.",
    )
    body = element(
        "body", {}, element("a", {"class": "skip", "href": "#main"}, "To the verdict"), top, main, footer
    )
    return f"<!DOCTYPE html>\n{element('html', {'lang': 'en'}, element('head', {}, head), body)}\n"


def _style() -> str:
    rules = files("tercet.evaluation.audit_report").joinpath("style.css").read_text(encoding="utf-8")
    return (
        f":root{{--sans:{_SANS};{variables(LIGHT)}}}"
        f"@media screen and (prefers-color-scheme:dark){{:root{{{variables(DARK)}}}}}\n{rules}"
    )


def _sections(view: View, json_name: str) -> list[tuple[str, str, Markup]]:
    """Id, title and content of each section that has something to say."""
    several = len(view.heads) > 1
    memory = (cost_pictures.memory_picture(view), not several)
    # Narrow pictures come in pairs: of one head there are four besides memory, of several heads one.
    pictures = [
        (quality_pictures.drift_picture(view), several),
        (cost_pictures.speed_picture(view), False),
        *([memory] if several else []),
        (quality_pictures.metric_picture(view), several),
        (quality_pictures.ranking_picture(view), several),
        *([] if several else [memory]),
        (quality_pictures.query_picture(view), True),
    ]
    figures = [_figure(picture, broad) for picture, broad in pictures if picture is not None]
    metrics = tables.metrics_table(view)
    more = [folded("Every metric", metrics)] if metrics is not None else []
    more.append(folded("Every other measure", tables.measures_table(view)))
    stored = tables.stored_table(view)
    shown = cost_pictures.stored_picture(view)
    layers = layer_picture(view)
    by_layer, rankings = wrong_tables.layers_table(view), wrong_tables.rankings_table(view)
    wrong = [
        _figure(layers, True) if layers is not None else None,
        folded("Every layer in numbers", by_layer) if by_layer is not None else None,
        wrong_tables.tensors_table(view),
        wrong_tables.texts_table(view),
        folded("Rankings that change most, document by document", rankings) if rankings is not None else None,
    ]
    found = [part for part in wrong if part is not None]
    sections = [
        ("costs", "What each scheme costs", joined(tables.schemes_table(view), *more)),
    ]
    if figures:
        sections.append(("pictures", "In pictures", element("div", {"class": "pictures"}, *figures)))
    if stored is not None:
        figure = _figure(shown, True) if shown is not None else ""
        sections.append(("stored", "Stored vectors", joined(figure, stored)))
    if found:
        sections.append(("wrong", "Where it goes wrong", joined(*found)))
    sections.append(("settings", "Settings and machine", settings_lists(view.result)))
    sections.append(("reading", "How to read this", _glossary()))
    return sections


def _figure(picture: Picture, broad: bool) -> Markup:
    return element(
        "figure",
        {"class": "broad" if broad else None},
        element("h3", {}, picture.title),
        element("figcaption", {}, picture.caption),
        element("div", {"class": "draw"}, Markup(picture.svg)),
    )


def _glossary() -> Markup:
    entries = [
        element(
            "div",
            {},
            element("dt", {}, word),
            element("dd", {}, meaning, element("span", {"class": "source"}, f" {source}") if source else ""),
        )
        for word, meaning, source in GLOSSARY
    ]
    return element("dl", {"class": "glossary"}, *entries)
