"""Data: a folder or manifest of labelled images enters; a `Dataset`, a `Split` and pixels leave.

`decode` and `preprocessing` are the only way from a file to pixels; `manifest` and `scan` find the images;
`split` assigns parts; `pixels` holds the decoded images on disk; `augmentation` makes other views of them.
"""
