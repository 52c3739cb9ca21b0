"""The images of a training that came before, beside new ones, as one source of labeled images.

Input: where the images of a run are (`ImagesOrigin`), and what its split says of them. Output: a `DataSource` of those
images, or of new images and those, in which the earlier ones have names in the folder `earlier`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from regraft.data.entries import EntryTable, ImageEntry
from regraft.data.labels import AskedTask, classes_in
from regraft.data.samples import Part
from regraft.data.sources.folders import FolderLayout, Layout
from regraft.data.sources.grouping import with_groups
from regraft.data.sources.open import DataSource, open_data
from regraft.data.storage import Directory, RoutedStorage, Storage
from regraft.data.strings import in_blocks
from regraft.data.taxonomy import Taxonomy
from regraft.errors import UsageError

#: Folder of the names of earlier images beside new ones.
EARLIER = "earlier"


@dataclass(frozen=True)
class ImagesOrigin:
    """Where the images of a run are: what `scan` was given, and the origin of the images of the run before, if any."""

    data: str
    layout: FolderLayout = "auto"
    image_column: str = ""
    label_column: str = ""
    group_by: str = ""
    remote: bool = False
    earlier: ImagesOrigin | None = None
    task: AskedTask = "auto"
    label_separator: str = ""
    groups_by_path: bool = True

    def for_reading(self, data: str | None = None) -> ImagesOrigin:
        """The origin without groups by path, which has its own images at `data`.

        URLs are read only where that is given. A column of groups stays, because it has no labels.
        """
        earlier = self.earlier and self.earlier.for_reading()
        remote, place = self.remote and data is not None, self.data if data is None else data
        return replace(self, data=place, groups_by_path=False, remote=remote, earlier=earlier)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> ImagesOrigin:
        """The inverse of `to_json`; runs before there was a `task` have one label for each image."""
        earlier = value.get("earlier")
        known = {"task": "classification", **value}
        return cls(**{**known, "earlier": None if earlier is None else cls.from_json(earlier)})

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def open_origin(origin: ImagesOrigin, tree: Taxonomy | None = None) -> DataSource:
    """Open the images of a run, with their groups, in the folders of its tree, if any. Raises as `open_data`."""
    source = open_data(
        origin.data, remote=origin.remote, layout=origin.layout, tree=tree, image_column=origin.image_column,
        label_column=origin.label_column, task=origin.task, label_separator=origin.label_separator,
        group_by=origin.group_by,
    )  # fmt: skip
    source = with_groups(source, origin.group_by if origin.groups_by_path else "")
    return source if origin.earlier is None else join(source, open_origin(origin.earlier, tree))


def select(source: DataSource, rows: Mapping[str, tuple[str, Part | None]]) -> DataSource:
    """The images of a source with these paths, with these labels and parts; other files are not mentioned."""
    found = EntryTable(
        ImageEntry(entry.path, *rows[entry.path], entry.group) for entry in source.layout.found if entry.path in rows
    )
    task = source.layout.task
    classes = {(part, name) for label, part in rows.values() for name in classes_in([label], task)}
    return replace(source, layout=Layout(found, classes, task=task))


def join(source: DataSource, earlier: DataSource) -> DataSource:
    """New images and earlier ones, whose names are in the folder `earlier`.

    Raises `UsageError` if the new ones have names there, too.
    """
    prefix, layout = f"{EARLIER}/", source.layout
    if taken := next((path for path in in_blocks(layout.found.paths) if path.startswith(prefix)), ""):
        raise UsageError(
            f"{source.root} has images in a folder {EARLIER!r}, such as {taken}: this is the name for the images of "
            "the earlier run. Rename the folder."
        )
    found = EntryTable(layout.found)
    found.extend(replace(entry, path=prefix + entry.path) for entry in earlier.layout.found)
    both = replace(layout, found=found, classes=layout.classes | earlier.layout.classes)
    storage = WithEarlier(source.storage, earlier.storage)
    return DataSource(storage, source.root, both, source.is_remote or earlier.is_remote)


@dataclass(frozen=True)
class WithEarlier(RoutedStorage):
    """A storage, and another one whose files have names in the folder `earlier`."""

    storage: Storage
    earlier: Storage

    @property
    def top(self) -> Directory:
        """Root directory of the first storage."""
        return self.storage.top

    def _find(self, name: str) -> tuple[Storage, str]:
        folder, _, inner = name.partition("/")
        return (self.earlier, inner) if folder == EARLIER and inner else (self.storage, name)
