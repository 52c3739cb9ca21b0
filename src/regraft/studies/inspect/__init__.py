"""Inspection of data: the checks, and the page with the images of each finding."""
