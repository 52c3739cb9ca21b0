"""What the OpenAPI document shows as an example."""

from __future__ import annotations

#: A PNG of 2 x 2 pixels in base64.
TINY_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR42mM4EaABRAwQCgAljgUBQTLeRwAAAABJRU5ErkJggg=="
