"""Pictures and the page. Needs the ``report`` extra: matplotlib, seaborn and jinja2."""

from importlib.util import find_spec

from weightscope.errors import MissingExtraError

_missing = [name for name in ("matplotlib", "seaborn", "jinja2") if find_spec(name) is None]
if _missing:
    raise MissingExtraError(
        f"reports and plots need {', '.join(_missing)}; install them with "
        "pip install 'weightscope[report]'"
    )

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
