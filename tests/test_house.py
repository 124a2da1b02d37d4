"""The house keeps its shape: imports go down the floors of tlx/README.md, and files stay readable."""

import ast
import pathlib
import re
import sys
import tomllib

import pytest

ROOT = pathlib.Path(__file__).parents[1]

FLOORS = {
    0: ("base",),
    1: ("parallel", "optim", "text", "metrics"),
    2: ("nn", "checkpoint", "data"),
    3: ("models",),
    4: ("objectives", "adapt", "hub", "decode"),
    5: ("tasks",),
    6: ("training", "evaluation"),
    7: ("run",),
    8: ("api", "plan", "launch", "recipes"),
    9: ("trainer", "scaling", "bench"),
    10: ("cli",),
}
FLOOR_OF = {part: floor for floor, parts in FLOORS.items() for part in parts}

MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 60

# What a lookup table holds: "package.module:attr".
TARGET = re.compile(r"(tlx(?:\.\w+)+):\w+")


def sources(*folders):
    return [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]


def part_of(module):
    """ "nn" of "tlx.nn.norm"; None for tlx itself and for what is not tlx."""
    names = module.split(".")
    return names[1] if names[0] == "tlx" and len(names) > 1 else None


def imports(tree):
    """(line, module) of everything a file imports, wherever it does, lookup tables' targets included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            if node.module == "tlx":
                yield from ((node.lineno, f"tlx.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if found := TARGET.fullmatch(node.value):
                yield node.lineno, found[1]


def wrong_imports(source, part):
    """Messages for each import of a file of `part` that does not go down."""
    for line, module in imports(ast.parse(source)):
        other = part_of(module)
        if other is None or other == part or other == "__version__":
            continue
        if other not in FLOOR_OF:
            yield f"line {line}: {module} is on no floor"
        elif FLOOR_OF[other] >= FLOOR_OF[part]:
            yield f"line {line}: {part} (floor {FLOOR_OF[part]}) imports {module} (floor {FLOOR_OF[other]})"


def long_functions(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"line {node.lineno}: {node.name} has {lines} lines, more than {MAX_FUNCTION_LINES}"


def test_imports_go_down():
    wrong = []
    for path in sources("tlx"):
        part = path.relative_to(ROOT / "tlx").parts[0].removesuffix(".py")
        if part in ("__init__", "__main__"):
            continue  # tlx itself: loads lazily from api, starts cli
        assert part in FLOOR_OF, f"{path} is on no floor: add it to FLOORS and to tlx/README.md"
        wrong += [f"{path.relative_to(ROOT)} {message}" for message in wrong_imports(path.read_text(), part)]
    assert not wrong, "\n".join(wrong)


def test_what_is_loaded_with_a_module_comes_with_tlx():
    """Packages of extras are loaded where they are used: `pip install -e .` runs every verb."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.match(r"[\w-]+", one)[0] for one in project["dependencies"]]
    modules = {"absl-py": "absl", "orbax-checkpoint": "orbax"}
    known = {modules.get(name, name) for name in names} | sys.stdlib_module_names
    known |= {"tlx", "ml_dtypes"}  # the latter is jax's own
    wrong = []
    for path in sources("tlx"):
        name = str(path.relative_to(ROOT))
        needed = {"lm_eval"} if name == "tlx/api/harness.py" else set()  # loaded by --harness alone
        found = {module.split(".")[0] for _, module in imports(_at_once(path.read_text()))}
        wrong += [f"{name} loads {module}" for module in sorted(found - known - needed)]
    assert not wrong, "\n".join(wrong)


def _at_once(source):
    """The imports that run when a file is loaded."""
    body = ast.parse(source).body
    return ast.Module([node for node in body if isinstance(node, ast.Import | ast.ImportFrom)], [])


def test_the_floors_are_those_of_the_page():
    page = (ROOT / "tlx" / "README.md").read_text()
    named = {name for name in FLOOR_OF if re.search(rf"\b{name}(/|\.py)", page)}
    assert named == set(FLOOR_OF)


def test_files_and_functions_stay_readable():
    wrong = []
    for path in sources("tlx", "configs", "launch", "tests"):
        source, name = path.read_text(), path.relative_to(ROOT)
        lines = source.count("\n")
        if lines > MAX_FILE_LINES:
            wrong.append(f"{name} has {lines} lines, more than {MAX_FILE_LINES}")
        if path.name in ("utils.py", "helpers.py", "misc.py"):
            wrong.append(f"{name}: name the thing")
        wrong += [f"{name} {message}" for message in long_functions(source)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    [
        "import tlx.models.flops_traced",
        "from tlx.models import config",
        "from tlx import models",
        "def f():\n    from tlx.checkpoint import trees",
        'TABLE = {"a": "tlx.models.families.llama:FAMILY"}',
        "from tlx.nowhere import thing",
    ],
)
def test_an_import_up_or_sideways_is_found(source):
    assert list(wrong_imports(source, "nn"))


@pytest.mark.parametrize("source", ["from tlx.nn import norm", "import tlx.base.tree", "import jax", "'a:b'"])
def test_an_import_down_is_allowed(source):
    assert not list(wrong_imports(source, "nn"))


def test_a_long_function_is_found():
    body = "    x = 1\n" * MAX_FUNCTION_LINES
    assert list(long_functions(f"def f():\n{body}")) and not list(long_functions("def f():\n    x = 1\n"))
