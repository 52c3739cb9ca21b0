"""Sources of labeled images: a folder, archive, table, manifest or URL becomes image entries and their storage."""
