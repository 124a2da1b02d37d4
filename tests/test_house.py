"""The house keeps its shape: imports go down the floors of tlx/README.md, and files stay readable."""

import ast
import collections
import pathlib
import re
import sys
import tomllib

import pytest

from tests import counts

ROOT = pathlib.Path(__file__).parents[1]

FLOORS = {
    0: ("base",),
    1: ("parallel", "optim", "text", "metrics"),
    2: ("nn", "checkpoint", "data"),
    3: ("models",),
    4: ("objectives", "adapt", "hub", "decode"),
    5: ("tasks",),
    6: ("training", "evaluation"),
    7: ("rollouts",),
    8: ("run",),
    9: ("api", "plan", "launch", "recipes"),
    10: ("trainer", "scaling", "bench", "serve"),
    11: ("cli",),
}
FLOOR_OF = {part: floor for floor, parts in FLOORS.items() for part in parts}

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


@pytest.fixture
def style_faults():
    """{kind: messages} of everything that tests.counts finds in tlx/, configs/ and launch/."""
    faults = collections.defaultdict(list)
    for path in counts.sources():
        for kind, message in counts.faults(path):
            faults[kind].append(message)
    return faults


def test_files_and_functions_stay_readable(style_faults):
    kinds = ("statements", "lines", "parameters", "docstring", "arguments", "fields")
    found = [f"{kind}: {message}" for kind in kinds for message in style_faults[kind]]
    assert not found, "\n".join(found)
    tuples = style_faults["tuples"]
    assert 1000 * len(tuples) / counts.num_lines(counts.sources()) < 2, "\n".join(tuples)


def test_comments_say_why():
    """In the code of models; their families are data."""
    assert counts.density("comments", ("tlx/nn", "tlx/models"), without="families") > 25


def test_files_say_what_they_are():
    names = [path.name for path in counts.sources(("tlx", "configs", "launch", "tests"))]
    assert not {"utils.py", "helpers.py", "misc.py"} & set(names)


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


PACKED = """
def start(a, b, c):
    x, y = 1, 2


class Config(NamedTuple):
    \"\"\"A config.\"\"\"

    size: int
"""


def test_faults_of_style_are_found(tmp_path, monkeypatch):
    monkeypatch.setattr(counts, "ROOT", tmp_path)
    long = "def f():\n" + "    x = 1\n" * (counts.MAX_STATEMENTS + 1)
    many = "def g(" + ", ".join(f"a{i}" for i in range(counts.MAX_PARAMETERS + 1)) + "): pass\n"
    (tmp_path / "file.py").write_text(PACKED + long + many + "x = 1\n" * counts.MAX_CODE_LINES)
    kinds = {kind for kind, _ in counts.faults("file.py")}
    assert kinds == {"statements", "lines", "parameters", "docstring", "arguments", "fields", "tuples"}


def test_an_override_is_documented_by_its_base_class(tmp_path, monkeypatch):
    monkeypatch.setattr(counts, "ROOT", tmp_path)
    source = (
        '"""A file."""\n\n\nclass C(B):\n    """A class."""\n\n    @override\n    def f(self, a, b, c):\n'
    )
    (tmp_path / "file.py").write_text(source + '        """Return a."""\n')
    assert not list(counts.faults("file.py"))
    (tmp_path / "file.py").write_text(source.replace("    @override\n", "") + '        """Return a."""\n')
    assert [kind for kind, _ in counts.faults("file.py")] == ["arguments"]
