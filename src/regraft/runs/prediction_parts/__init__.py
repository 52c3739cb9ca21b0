"""Predictions of many images as a folder of files, its parts.

`parts` divides the images and computes what is missing, here or on a cluster; `rows` writes one part.
"""
