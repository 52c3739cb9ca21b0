"""Pipeline: the parts in the order of the data, with the configuration; a path enters and a finished `Run` leaves.

`train` makes a run; `run` opens one; `evaluate` and `predict` use one; `demo` finds the demo's data.
"""
