"""Checks of a Hugging Face directory that comes from anybody, before anything of it is used."""

import os
import pathlib

from tlx.base.errors import DataError


def check_links(folder: pathlib.Path) -> None:
    """Raise DataError where a link in a directory, or in a folder directly below it, leads out of the directory.

    A snapshot in the cache of huggingface_hub (models--NAME/snapshots/REVISION) links to the blobs of its own
    repository, which belong to it.
    """
    roots = [pathlib.Path(os.path.realpath(folder))]
    if folder.absolute().parent.name == "snapshots":
        roots.append(pathlib.Path(os.path.realpath(folder.absolute().parents[1])) / "blobs")
    for entry in os.scandir(folder):
        entries = [entry]
        if entry.is_dir(follow_symlinks=False):
            entries += os.scandir(entry.path)
        for inner in entries:
            target = pathlib.Path(os.path.realpath(inner.path))
            if inner.is_symlink() and not any(target.is_relative_to(root) for root in roots):
                raise DataError(
                    f"{inner.path} is a link that leads out of the directory, to {target}: a file from elsewhere may "
                    "name any file of this machine; copy what it links to in its place if you trust it"
                )
