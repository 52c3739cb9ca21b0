"""Models: a backbone's name and class names enter; a `Classifier` that can be cut at any stage leaves.

`registry` knows the names; `weights` fills a backbone; `stages` cuts it; `classifier` puts a `head` on it;
`inference` predicts image files; `checkpoint` keeps it on disk; `summary` lists its layers.
"""
