"""Names of the files of a step, and what a listing of steps says, for folders and buckets."""

import re
from typing import NamedTuple

COMMIT = "commit_success.txt"
MANIFEST = "tlx_manifest.json"
REASON = "tlx_reason.txt"
UNFINISHED = ".unfinished-"
STEP = re.compile(r"0|[1-9][0-9]{0,17}")


class Listing(NamedTuple):
    """The content of a folder of steps, each field ascending."""

    complete: tuple[int, ...]
    """Steps with COMMIT and MANIFEST."""
    incomplete: tuple[int, ...]
    """Steps without COMMIT or without MANIFEST."""
    corrupt: tuple[str, ...]
    """Names of steps that were set aside as damaged."""
    strange: tuple[str, ...]
    """Names of files, links and folders that are not tlx's."""
