"""Image classifiers: a timm backbone that is split into stages, and a new head.

`registry` lists the backbones, `weights` loads pretrained weights into them, `stages` splits them and `baselines` adds
two networks without pretraining. `classifier` puts a `head` on a backbone, `inference` predicts image files, `ood`
detects out-of-distribution images and `rejection` decides which predictions are accepted. `serialization` saves and
loads a model, `summary` lists its layers, and `malloc` and `cpu` make it fast on processors.
"""
