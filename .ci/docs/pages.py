"""A hook of mkdocs that generates every page: guides from README.md files, config keys, a page for each module.

Nothing is copied into the tree. Links between README.md files become links between pages. A link to a file
that does not exist fails the build, for mkdocs runs with --strict.
"""

import ast
import pathlib
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from tlx.cli import explanations

ROOT = pathlib.Path(__file__).parents[2]
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)#\s]+)([^)]*\))")
PICTURES = (".png", ".svg")
FOLDERS = ("tlx", "configs", "launch")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replaces the files of docs_dir, which holds this hook only, by the generated pages."""
    generated = Files([])
    for uri, content in {**guides(), **references(), "config_keys.md": explanations.page()}.items():
        generated.append(File.generated(config, uri, content=content))
    for path in tracked("*.png", "*.svg"):
        generated.append(File.generated(config, str(path), abs_src_path=str(ROOT / path)))
    config.nav = navigation([file.src_uri for file in generated.documentation_pages()])
    for file in files:
        if not file.is_documentation_page() and file.src_uri != "pages.py":
            generated.append(file)  # the theme's own
    return generated


def tracked(*patterns: str) -> list[pathlib.Path]:
    """Files below FOLDERS, and at the root, that match one of the patterns, relative to the root."""
    paths = []
    for pattern in patterns:
        paths += ROOT.glob(pattern)
        for folder in FOLDERS:
            paths += (ROOT / folder).rglob(pattern)
    return sorted(path.relative_to(ROOT) for path in paths)


def guides() -> dict[str, str]:
    """The README.md and other pages of the folders, by the URI of their page."""
    pages = tracked("*.md")
    uris = {path: guide_uri(path) for path in pages}
    return {uris[path]: linked((ROOT / path).read_text(), path, uris) for path in pages}


def guide_uri(path: pathlib.Path) -> str:
    """The URI of the page of a README.md: its folder's index."""
    return str(path.with_name("index.md") if path.name == "README.md" else path)


def linked(text: str, path: pathlib.Path, uris: dict[pathlib.Path, str]) -> str:
    """The text of a page with its relative links pointing at pages and pictures.

    Args:
        text: Markdown of the file.
        path: The file, relative to the repository's root.
        uris: The URI of the page of each Markdown file that has one.

    Returns:
        The Markdown of the page. A link to a file without a page is left as it is, so that --strict fails
        where the file does not exist; one to a file of code becomes its path as code.
    """
    depth = len(pathlib.PurePosixPath(uris[path]).parts) - 1

    def replace(match: re.Match[str]) -> str:
        opening, target, closing = match.groups()
        if re.match(r"[a-z]+:", target):
            return match[0]
        resolved = (ROOT / path.parent / target).resolve()
        if not resolved.exists():
            return match[0]
        relative = resolved.relative_to(ROOT)
        if resolved.is_dir():
            relative = relative / "README.md"
        if relative in uris:
            return opening + "../" * depth + uris[relative] + closing
        if relative.suffix in PICTURES:
            return opening + "../" * depth + str(relative) + closing
        return f"`{relative}`"

    return LINK.sub(replace, text)


def references() -> dict[str, str]:
    """One page for each module of tlx, made of its docstrings, and an index of them by folder."""
    pages = {}
    index = ["# API reference", ""]
    for path in tracked("*.py"):
        if path.parts[0] != "tlx":
            continue
        module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        uri = f"reference/{module}.md"
        pages[uri] = f"# {module}\n\n::: {module}\n"
        docstring = ast.get_docstring(ast.parse((ROOT / path).read_text())) or ""
        first_line = docstring.partition("\n")[0]
        if path.name == "__init__.py":
            index.append(f"\n**[{module}]({module}.md)**: {first_line}\n")
        else:
            index.append(f"- [{module}]({module}.md): {first_line}")
    pages["reference/index.md"] = "\n".join(index) + "\n"
    return pages


def navigation(uris: list[str]) -> list[dict[str, str]]:
    """The pages shown in the menu: the guides and the index of the reference."""
    top = [uri for uri in sorted(uris) if not uri.startswith("reference/") or uri.endswith("index.md")]
    top.sort(key=lambda uri: (uri != "index.md", uri))
    return [{title(uri): uri} for uri in top]


def title(uri: str) -> str:
    """The title of a page in the menu."""
    names = {
        "index.md": "tlx",
        "tlx/index.md": "The house",
        "config_keys.md": "Config keys",
        "reference/index.md": "API reference",
    }
    return names.get(uri, uri.removesuffix("/index.md").removesuffix(".md"))
