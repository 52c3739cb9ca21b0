"""Charts, drawn with matplotlib: each module draws one on given axes, for a PNG in `plots/` and as SVG in a page.

`plots.confusion` and the others are imported when they are first used: Matplotlib takes half a second to import, and
who imports this package draws at the end of long work, or never.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from regraft.report.plots import attribution_plots as attribution_plots
    from regraft.report.plots import confusion as confusion
    from regraft.report.plots import histogram as histogram
    from regraft.report.plots import precision_recall as precision_recall
    from regraft.report.plots import predicted_true as predicted_true
    from regraft.report.plots import reliability as reliability
    from regraft.report.plots import samples as samples
    from regraft.report.plots import style as style
    from regraft.report.plots import svg as svg
    from regraft.report.plots import training_curve as training_curve
else:
    _MODULES = (
        "attribution_plots", "confusion", "histogram", "precision_recall", "predicted_true", "reliability", "samples",
        "style", "svg", "training_curve",
    )  # fmt: skip

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return importlib.import_module(f"{__name__}.{name}")
