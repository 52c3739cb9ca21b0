"""Pages, model cards and charts: plain values (history rows, a confusion matrix, sample tiles) become files.

`html` renders the jinja2 templates of `templates/`; `plots` has one module per chart. Charts use matplotlib's object
interface only: no pyplot, no global state, safe in servers and threads.
"""
