"""Report: plain values (history rows, a confusion matrix, sample tiles) enter; pictures leave.

One module per picture; `style` holds the colours and fonts they share and the one way to save. matplotlib's
object interface only: no pyplot, no global state, safe in servers and threads.
"""
