"""Who made a run or an export, and whether a file of it has changed since: a signature over every file of its folder.

Input: the folder and a key. Output: `model.sig`, a Sigstore bundle of model-signing, or an error that names the files.
"""
