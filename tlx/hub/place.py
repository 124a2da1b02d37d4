"""Places of models: a folder, a run in a bucket, or a Hugging Face directory in a bucket, which is fetched."""

import os

from tlx.base import place as places
from tlx.base.place import BucketPath, Place


def open_place(path: str | os.PathLike | BucketPath) -> Place:
    """Return the place of a run or of a model; a Hugging Face directory in a bucket is fetched to the user's cache.

    A run stays where it is: its parameters are read from there. Raises ConfigError for an unknown scheme or a missing
    extra, and OSError where a bucket cannot be read.
    """
    place = places.parse(path)
    if not isinstance(place, BucketPath):
        return place
    names = place.store.list_names(place.prefix)
    is_model = "config.json" in names and "run.json" not in names
    return places.fetched_folder(place) if is_model else place
