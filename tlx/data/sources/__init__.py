"""Sources of documents by name. A new source is one file with a class(config, split), and one line here."""

from typing import TYPE_CHECKING

from tlx.base.lookup import Table
from tlx.data.sources.source import Document, Source, Split

if TYPE_CHECKING:  # the config names its source by this table
    from tlx.data.config import SourceConfig

TABLE = Table(
    "data.source",
    {
        "docstrings": "tlx.data.sources.docstrings:DocstringSource",
        "python": "tlx.data.sources.python:PythonSource",
        "text": "tlx.data.sources.text:TextSource",
        "tfds": "tlx.data.sources.tfds:TfdsSource",
    },
)


def open_source(config: "SourceConfig", split: Split) -> Source:
    """Open the source that a config names. Raises DataError where the split has no documents."""
    return TABLE.load(config.source, allow=None)(config, split)


__all__ = ["TABLE", "Document", "Source", "Split", "open_source"]
