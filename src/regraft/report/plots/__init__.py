"""Charts, drawn with matplotlib: each module draws one on given axes, for a PNG in `plots/` and as SVG in a page."""
