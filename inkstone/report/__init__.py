"""The page of a run: one HTML file that opens without a network and shows what every stage did.

    page = render_report(Path("runs/primer"))

`gather.py` reads what the stages left, `charts.py` draws, `page.py` fills `page.html.j2`.
"""

from inkstone.report.page import render_report

__all__ = ["render_report"]
