"""Functions of Python's standard library and their docstrings: text pairs available on every machine."""

import ast
import pathlib
from collections.abc import Iterator

from tlx.base.errors import DataError
from tlx.data.config import SourceConfig
from tlx.data.sources.python import PythonSource
from tlx.data.sources.source import Document, Split


class DocstringSource:
    """Pairs (code of a function without its docstring, docstring), with the files and splits of PythonSource."""

    parallel = True

    def __init__(self, config: SourceConfig, split: Split, root: pathlib.Path | None = None):
        self._files = PythonSource(config, split, root)
        self.name = f"docstrings of {self._files.name}"
        self.parts = self._files.parts
        self.part_sizes = self._files.part_sizes
        self.num_bytes = None
        self.identity = ["docstrings", self._files.identity]

    def read(self, part: str) -> Iterator[Document]:
        """Yield code and docstring of each function of a file that has a docstring."""
        for document in self._files.read(part):
            try:
                nodes = list(ast.walk(ast.parse(document.text)))
            except (SyntaxError, ValueError) as error:
                raise DataError(f"cannot parse {document.name}: {error}") from error
            lines = document.text.splitlines()
            for node in nodes:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield from _pair(node, lines, f"{document.name}:{node.lineno}")


def _pair(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str], name: str) -> tuple[Document, ...]:
    """Code and docstring; empty where the function lacks a docstring or has nothing else."""
    docstring = ast.get_docstring(node)
    first = node.body[0]
    code = lines[node.lineno - 1 : first.lineno - 1] + lines[first.end_lineno : node.end_lineno]
    text = "\n".join(code)
    if not docstring or not docstring.strip() or len(node.body) < 2 or not text.strip():
        return ()
    return Document(name, text), Document(name, docstring)
