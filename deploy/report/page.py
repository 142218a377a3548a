"""One HTML file of a comparison, with everything in it that it needs: nothing is loaded from anywhere.

A content security policy in the page forbids requests, so the browser sees to it, too. Equal evidence gives equal
bytes.
"""

from __future__ import annotations

import json
import os
from importlib import metadata
from typing import Any

from spikefold.deploy.compare import csv_text, json_text
from spikefold.deploy.report.charts import plotly
from spikefold.deploy.report.evidence import Evidence
from spikefold.deploy.report.sections import sections
from spikefold.errors import BackendError, InputError
from spikefold.files import atomic_path


def check_report() -> None:
    """Refuse early what cannot be written later.

    Raises
    ------
    BackendError
        plotly or jinja2 is not installed.
    """
    plotly()
    _environment()


def write_report(evidence: Evidence, path: str | os.PathLike[str]) -> None:
    """Write the page.

    Parameters
    ----------
    evidence : Evidence
        Collected by ``compare(..., watch=evidence.add)``.
    path : path
        An ``.html`` file in a folder that exists.

    Raises
    ------
    InputError
        No row was collected.
    BackendError
        plotly or jinja2 is not installed.
    """
    text = report_html(evidence)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def report_html(evidence: Evidence) -> str:
    """The page as text; see `write_report`."""
    if not evidence.forms:
        raise InputError("the report has no row to show: hand compare() the evidence with watch=evidence.add")
    check_report()
    from plotly.offline import get_plotlyjs

    made = sections(evidence)
    charts = {c.id: c.figure for s in made for block in s.every_block for c in block.charts}
    figures = ",".join(f"{json.dumps(name)}:{_plain_json(figure)}" for name, figure in charts.items())
    files = {"table.csv": csv_text(evidence.rows), "table.json": json_text(evidence.rows)}
    names = ", ".join(dict.fromkeys(row.name for row in evidence.rows))
    html: str = _environment().get_template("page.html.jinja").render(
        title=f"Spikefold report: {names}", sections=made, plotly=get_plotlyjs(), figures=_in_script(f"{{{figures}}}"),
        files=_in_script(json.dumps(files)), data=evidence.data, samples=evidence.rows[0].samples, names=names,
        version=metadata.version("spikefold"),
    )  # fmt: skip
    return html


def _environment() -> Any:
    try:
        import jinja2
    except ImportError as error:
        raise BackendError("the report needs jinja2: pip install 'spikefold[report]'") from error
    loader = jinja2.PackageLoader("spikefold.deploy.report", "")
    return jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                              lstrip_blocks=True)  # fmt: skip


def _plain_json(figure: Any) -> str:
    text: str = figure.to_json(engine="json")
    return text


def _in_script(text: str) -> str:
    """JSON that may stand in a ``<script>`` as it is: nothing in it can end the element."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
