"""Pictures and the page. Needs the ``report`` extra: matplotlib, seaborn and jinja2."""

from importlib import import_module

from weightscope.errors import extra

for _package, _part in (
    ("matplotlib", "figure"),
    ("seaborn", "palettes"),
    ("jinja2", "environment"),
):
    with extra(_package, f"reports and plots need {_package}", "pip install 'weightscope[report]'"):
        import_module(f"{_package}.{_part}")

from weightscope.report.checkpoint import render_checkpoint  # noqa: E402
from weightscope.report.html import render_html, write_html  # noqa: E402
from weightscope.report.pages import write_page  # noqa: E402
from weightscope.report.plots import (  # noqa: E402
    plot_ablation,
    plot_layer_histograms,
    plot_overlaid_histograms,
    plot_proposals,
    plot_search,
    plot_spread_ratio,
    plot_stage_histograms,
    plot_utilization,
)

__all__ = [
    "plot_ablation",
    "plot_layer_histograms",
    "plot_overlaid_histograms",
    "plot_proposals",
    "plot_search",
    "plot_spread_ratio",
    "plot_stage_histograms",
    "plot_utilization",
    "render_checkpoint",
    "render_html",
    "write_html",
    "write_page",
]
