"""Counts what the style of tlx/README.md asks for: `python -m tests.counts [FOLDER ...]` prints each fault.

Statements, docstrings, documented arguments and fields, parameters, tuple assignments, packed calls and
comments are counted from the source alone. Types are counted by basedpyright.
"""

import ast
import collections
import io
import pathlib
import re
import sys
import tokenize

ROOT = pathlib.Path(__file__).parents[1]
FOLDERS = ("tlx", "configs", "launch")
MAX_STATEMENTS = 40
MAX_CODE_LINES = 500
MAX_PARAMETERS = 8
# Functions whose keyword arguments are the interface that callers write, one option each: "path:name".
KEYWORD_INTERFACES = {
    "tlx/api/load.py:load",
    "tlx/api/generation.py:generate",
    "tlx/api/generation.py:stream",
    "tlx/trainer/evaluate.py:evaluate",
    "tlx/decode/beam.py:beam_search",
    "tlx/decode/generate.py:generate",
    "tlx/decode/speculative.py:generate_speculative",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(folders=FOLDERS):
    """Return the Python files of the folders, relative to the repository's root."""
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    return [path.relative_to(ROOT) for path in paths]


def is_docstring(node):
    """Return whether a statement is a string alone."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def statements(function):
    """Count the statements of a function, docstrings aside."""
    inner = [node for node in ast.walk(function) if isinstance(node, ast.stmt) and node is not function]
    return sum(not is_docstring(node) for node in inner)


def code_lines(source, tree):
    """Count the lines that are neither empty, nor comments, nor docstrings."""
    documented = set()
    for node in ast.walk(tree):
        if is_docstring(node):
            documented |= set(range(node.lineno, node.end_lineno + 1))
    lines = enumerate(source.split("\n"), 1)
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and i not in documented for i, line in lines
    )


def comments(source):
    """Count the comments of a file."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return sum(token.type == tokenize.COMMENT for token in tokens)


def parameters(function):
    """Return the names of a function's parameters, self and cls aside."""
    arguments = function.args
    every = arguments.posonlyargs + arguments.args + arguments.kwonlyargs
    return [argument.arg for argument in every if argument.arg not in ("self", "cls")]


def is_override(function):
    """Return whether a method says that its base class documents it (the type checker holds that there is one)."""
    return any("override" in (getattr(d, "id", ""), getattr(d, "attr", "")) for d in function.decorator_list)


def undocumented_parameters(function):
    """Return the parameters that the docstring's Args do not name."""
    section = re.search(r"Args:\n(.*?)(\n\w+:|\Z)", ast.get_docstring(function) or "", re.DOTALL)
    listed = section[1] if section else ""
    return [
        name
        for name in parameters(function)
        if not re.search(rf"^\s+\*{{0,2}}{name}( \(.*?\))?:", listed, re.M)
    ]


def is_record(node):
    """Return whether a class is a dataclass or a NamedTuple, whose fields are documented one by one."""
    decorated = any("dataclass" in ast.dump(decorator) for decorator in node.decorator_list)
    return decorated or any(getattr(base, "id", "") == "NamedTuple" for base in node.bases)


def definitions(node, public=True):
    """Yield (definition, whether it is public) of every function and class below a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function | ast.ClassDef):
            visible = public and not child.name.startswith("_")
            yield child, visible
            yield from definitions(child, visible and isinstance(child, ast.ClassDef))
        elif not isinstance(child, ast.expr):  # an expression holds no definition
            yield from definitions(child, public)


def function_faults(function, public):
    """Yield (kind, message) of a function."""
    count = statements(function)
    if count > MAX_STATEMENTS:
        yield "statements", f"{function.name} has {count} statements, more than {MAX_STATEMENTS}"
    names = parameters(function)
    if len(names) > MAX_PARAMETERS:
        yield "parameters", f"{function.name} has {len(names)} parameters, more than {MAX_PARAMETERS}"
    if not public:
        return
    if not ast.get_docstring(function):
        yield "docstring", f"{function.name} has no docstring"
    documented_above = len(names) < 3 or is_override(function)
    missing = [] if documented_above else undocumented_parameters(function)
    if missing:
        yield "arguments", f"{function.name}: Args do not name {', '.join(missing)}"


def class_faults(node, public):
    """Yield (kind, message) of a class."""
    if not public:
        return
    if not ast.get_docstring(node):
        yield "docstring", f"class {node.name} has no docstring"
    if not is_record(node):
        return
    followers = [*node.body[1:], None]
    for statement, follower in zip(node.body, followers, strict=True):
        if isinstance(statement, ast.AnnAssign) and (follower is None or not is_docstring(follower)):
            yield "fields", f"field {node.name}.{ast.unparse(statement.target)} is not documented below it"


def packed_faults(tree):
    """Yield (kind, line, message) of code that is packed to save lines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            if any(isinstance(target, ast.Tuple) for target in node.targets):
                yield "tuples", node.lineno, "an assignment of several values: one a line"


def faults(path):
    """Yield (kind, message) of everything that a file does against the style.

    Args:
        path: The file, relative to the repository's root.
    """
    source = (ROOT / path).read_text()
    tree = ast.parse(source)
    count = code_lines(source, tree)
    if count > MAX_CODE_LINES:
        yield "lines", f"{path} has {count} lines of code, more than {MAX_CODE_LINES}"
    if source.strip() and not ast.get_docstring(tree):
        yield "docstring", f"{path} has no docstring"
    for node, public in definitions(tree):
        found = function_faults(node, public) if isinstance(node, Function) else class_faults(node, public)
        for kind, message in found:
            if kind == "parameters" and f"{path}:{node.name}" in KEYWORD_INTERFACES:
                continue
            yield kind, f"{path}:{node.lineno}: {message}"
    for kind, line, message in packed_faults(tree):
        yield kind, f"{path}:{line}: {message}"


def density(kind, folders, without=None):
    """Return how many faults of a kind, or comments, a thousand lines have.

    Args:
        kind: A kind of fault, or "comments".
        folders: The folders that are counted.
        without: Name of a folder below them that is not.
    """
    paths = [path for path in sources(folders) if without not in path.parts]
    if kind == "comments":
        count = sum(comments((ROOT / path).read_text()) for path in paths)
    else:
        count = sum(found == kind for path in paths for found, _ in faults(path))
    return 1000 * count / num_lines(paths)


def num_lines(paths):
    """Count the lines of files, relative to the repository's root."""
    return sum((ROOT / path).read_text().count("\n") for path in paths)


def main(folders):
    """Print each fault, and the totals."""
    totals = collections.Counter()
    for path in sources(folders):
        for kind, message in faults(path):
            totals[kind] += 1
            print(message)
    print(dict(totals))
    for kind in ("tuples", "comments"):
        print(f"{kind} a thousand lines: {density(kind, folders):.1f}")


if __name__ == "__main__":
    main(sys.argv[1:] or FOLDERS)
