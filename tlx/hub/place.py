"""Places of models: folders and runs in buckets; Hugging Face directories of a bucket or of the Hub are fetched."""

import os

from tlx.base import place as places
from tlx.base.place import BucketPath, Place
from tlx.hub import download
from tlx.hub.elmo import is_elmo_listing


def open_place(path: str | os.PathLike | BucketPath) -> Place:
    """Return the place of a run or of a model.

    A Hugging Face directory of a bucket or of the Hub, and one of ELMo's released files, is fetched to a cache. A run
    stays where it is: its parameters are read from there. Raises ConfigError for an unknown scheme or a missing
    extra, OSError where a bucket cannot be read, and what download.fetch raises.
    """
    if download.is_hub_address(path):
        return download.fetch(str(path))
    place = places.parse(path)
    if not isinstance(place, BucketPath):
        return place
    names = place.store.list_names(place.prefix)
    is_model = "config.json" in names and "run.json" not in names
    if is_model or is_elmo_listing(names):
        return places.fetched_folder(place)
    return place
