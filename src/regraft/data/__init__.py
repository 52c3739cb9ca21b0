"""Data: from a folder or manifest of labeled images to a `Dataset`, a `Split` and pixels.

`scan` finds the images in one of the `sources`, and `index` reads each file once. `split` assigns them to train, val
and test. `decode` and `preprocessing` are the only way from a file to pixels, `pixel_cache` stores the pixels on disk,
and `augmentation` makes random views of them. `quality` looks for duplicates, shortcuts and damaged files.
"""
