"""Training: a `Classifier` and a `Split` enter; the `Classifier`, trained, and a `Training` leave.

`options` says what can be set; `prefix` runs the frozen stages once; `solver` solves the head; `loop` is the one
training loop; `train` puts them in order; `objective` is the loss; `hardware` chooses device and precision;
`progress` tells how far the work is.
"""
