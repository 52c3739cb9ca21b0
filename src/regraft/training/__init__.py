"""Transfer learning of a `Classifier` on a `Split`.

`options` lists the settings. `trainer` runs the phases in order: `data` decodes the images and caches the frozen
prefix (`feature_cache`, `prefix_backend`), `linear_head` fits the head, `phase` fine-tunes, `model_selection` keeps the
best weights and `checkpoint` saves the state. `losses` holds the loss and its metrics, `device` chooses device and
precision, and `callbacks` reports progress. Beforehand `throughput` measures the machine, `budget` estimates the cost,
`storage` decides where activations are kept, and `scaling` estimates other machines.
"""
