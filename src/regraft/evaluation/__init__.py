"""Evaluation: class probabilities of labelled images enter; an `Evaluation`, every number about them, leaves.

`predictions` holds the one frozen value that everything here works on and its CSV form; `metrics` turns it
into numbers; `names` makes class names fit to be shown. Nothing here needs a model, so saved predictions can
be evaluated anywhere.
"""
