"""Words and letters mean one thing: the letters of shapes in names have one legend, in tlx/nn/__init__.py."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# "x_BTD", "bias_1NTS", "left_BT1": a suffix of capitals after a name in lower case, which constants lack.
SUFFIX = re.compile(r"[a-z]\w*_([A-Z0-9]*[A-Z][A-Z0-9]*)")
# "Shapes: W characters of a token, U units." in a module's docstring.
ADDITIONS = re.compile(r"^Shapes: (.*?)\.$", re.MULTILINE | re.DOTALL)


def legend():
    """The letters of the repository: lines "    B  batch (rows)"."""
    docstring = ast.get_docstring(ast.parse((ROOT / "tlx/nn/__init__.py").read_text()))
    return set(re.findall(r"^ *([A-Z])  \S", docstring, re.MULTILINE))


def additions(tree):
    """The letters that a module adds in its docstring."""
    found = ADDITIONS.search(ast.get_docstring(tree) or "")
    return [] if found is None else re.findall(r"(?:^|,\s)([A-Z]) [a-z]", found[1])


def suffixes(tree):
    """{name: letters} of every local and parameter that has a suffix."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
    return {name: match[1] for name in names if (match := SUFFIX.fullmatch(name))}


def faults(source, letters):
    """Messages for letters that a file redefines or uses without saying what they are."""
    tree = ast.parse(source)
    added = additions(tree)
    for letter in added:
        if letter in letters:
            yield f"{letter} is of the legend in tlx/nn/__init__.py and cannot be given another meaning"
    for name, suffix in sorted(suffixes(tree).items()):
        unknown = [letter for letter in suffix if letter.isalpha() and letter not in {*letters, *added}]
        if unknown:
            missing = ", ".join(unknown)
            yield f"{name}: no legend has {missing}; add a line 'Shapes: ...' to the module's docstring"


@pytest.mark.parametrize("folder", sorted(p.name for p in (ROOT / "tlx").iterdir() if p.is_dir()))
def test_shape_suffixes_have_one_legend(folder):
    letters = legend()
    found = [
        f"{path.relative_to(ROOT)}: {fault}"
        for path in sorted((ROOT / "tlx" / folder).rglob("*.py"))
        for fault in faults(path.read_text(), letters)
    ]
    assert not found, "\n".join(found)


def test_the_legend_is_read():
    assert legend() == set("BTSMDNGHFVLXEPRCK")


def test_a_letter_out_of_place_is_found():
    letters = legend()
    assert not [*faults('"""Shapes: W words, U units."""\nx_BWU = 1\nMAX_Q = 2', letters)]
    assert len([*faults("def f(x_BQ): ...", letters)]) == 1
    assert len([*faults('"""Shapes: T tokens."""', letters)]) == 1
