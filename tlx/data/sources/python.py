"""The source code of Python's standard library: real text available on every machine."""

import io
import os
import pathlib
import platform
import sysconfig
import tokenize
from collections.abc import Iterator

from tlx.base.errors import DataError
from tlx.data.config import SourceConfig
from tlx.data.sources.source import Document, Split, held_out

# Near-duplicates (lib2to3, encodings), data (pydoc_data), third-party code (site-packages), or absent from
# slim images of Python (test, tests, idlelib).
EXCLUDED = frozenset(
    "test tests idlelib lib2to3 encodings pydoc_data site-packages dist-packages __pycache__".split()
)
_VALIDATION_FRACTION = 0.1


class PythonSource:
    """One document per file; a tenth of the files is held out by a hash of their path."""

    parallel = False

    def __init__(self, config: SourceConfig, split: Split, root: pathlib.Path | None = None):
        del config
        self._root = root or pathlib.Path(sysconfig.get_paths()["stdlib"])
        validation = split == "validation"
        files = {
            path: (self._root / path).stat()
            for path in _modules(self._root)
            if held_out(path, _VALIDATION_FRACTION) == validation
        }
        if not files:
            raise DataError(
                f"the standard library in {self._root} has no .py files for {split}; use data.source = 'text'"
            )
        self.name = f"python {platform.python_version()} ({split})"
        self.parts = list(files)
        self.part_sizes = [stat.st_size for stat in files.values()]
        self.num_bytes = sum(self.part_sizes)
        self.identity = [
            str(self._root),
            [[path, stat.st_size, stat.st_mtime_ns] for path, stat in files.items()],
        ]

    def read(self, part: str) -> Iterator[Document]:
        """Yield the file, decoded as Python does, line ends unchanged; nothing where it is blank."""
        path = self._root / part
        try:
            content = path.read_bytes()
            # A few files of the library declare latin-1.
            encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
            text = content.decode(encoding)
        except (OSError, SyntaxError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read {path}: {error}") from error
        if text.strip():
            yield Document(str(path), text)


def _modules(root: pathlib.Path) -> list[str]:
    """Relative paths of all .py files below `root`, without the excluded folders, sorted."""
    paths: list[pathlib.Path] = []
    for folder, folders, files in os.walk(root):
        # Changed in place: os.walk then leaves these folders out.
        folders[:] = [name for name in folders if name not in EXCLUDED]
        paths += [pathlib.Path(folder, name) for name in files if name.endswith(".py")]
    return sorted(path.relative_to(root).as_posix() for path in paths)
