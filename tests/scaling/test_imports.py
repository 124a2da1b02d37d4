"""Imports within tlx.scaling form no circle, and the parsers of tlx scale import no numerical library."""

import ast
import pathlib
import subprocess
import sys

from tests.cli.tiny import ROOT

FOLDER = ROOT / "tlx/scaling"


def imported(tree):
    """Modules of tlx.scaling that the import statements of a syntax tree name."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "tlx.scaling":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tlx.scaling."):
            names.add(node.module.removeprefix("tlx.scaling."))
    return names


def test_no_module_imports_one_that_imports_it():
    graph = {path.stem: imported(ast.parse(path.read_text())) for path in FOLDER.glob("*.py")}
    while graph:
        free = [name for name, others in graph.items() if not others & graph.keys()]
        assert free, f"a circle among {sorted(graph)}"
        for name in free:
            del graph[name]


def test_no_function_imports_from_the_package():
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                assert not imported(node), f"{path.name}: {node.name}"


def test_functions_of_the_package_share_no_name_with_its_modules():
    import tlx.scaling

    assert not set(tlx.scaling.__all__) & {pathlib.Path(path).stem for path in FOLDER.glob("*.py")}


def test_parsers_import_no_numerical_library():
    code = (
        "import sys; from tlx.cli import scale; [scale.make_parser(verb) for verb in scale.VERBS]; "
        "print(sorted({'jax', 'numpy', 'scipy'} & sys.modules.keys()))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.strip() == "[]"
