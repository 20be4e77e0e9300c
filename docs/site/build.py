"""Build the documentation site: `python docs/site/build.py`, or `make docs`, writes it to site/.

A page links to other pages, notebooks and sources by where they lie in the repository, so that it
can be read there. Here each of these files becomes a page of the site, and links lead to pages.
"""

import json
import os
import posixpath
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import notebook
from names import API, linked_names

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "docs/api.md": "api/index.md",
    "docs/coming_from.md": "coming_from/index.md",
}
DOCS = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("docs/**/*.md"))]
NOTEBOOKS = [str(path.relative_to(ROOT)) for path in sorted(ROOT.glob("notebooks/*.ipynb"))]
LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?(\))")
CODE = re.compile(r"(^```.*?^```|`[^`\n]+`)", re.MULTILINE | re.DOTALL)
# What a page loads by itself: no link, but a picture, a script, a style.
ELSEWHERE = re.compile(r"""<(?!a\b)[^>]*\b(?:src|href)=["']?(?:https?:)?//[^>]*>""")


def page_of(path):
    """Return where in the site a file of the repository is."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.endswith(".ipynb"):
        return path.removesuffix(".ipynb") + ".md"
    return path if path.endswith(".png") else f"source/{path}.md"


def with_links(markdown, origin, found):
    """Return the text of a page with links to pages, and add the files that it links to."""
    page = page_of(origin)

    def link(match):
        path = posixpath.normpath(posixpath.join(posixpath.dirname(origin), match[2]))
        if not (ROOT / path).exists() and not path.endswith(".png"):
            raise FileNotFoundError(f"{origin} links to {path}")
        found.add(path)
        target = posixpath.relpath(page_of(path), posixpath.dirname(page) or ".")
        return f"{match[1]}{target}{match[3] or ''}{match[4]}"

    parts = CODE.split(markdown)  # every other one is code
    parts[::2] = (LINK.sub(link, part) for part in parts[::2])
    return "".join(parts)


def pages():
    """Return the content of every page, figure and style by its path in the site."""
    found, content = set(), {}
    for origin in {*PAGES, *DOCS}:
        text = with_links((ROOT / origin).read_text(), origin, found)
        content[page_of(origin)] = linked_names(text, bare=origin == "docs/api.md")
    for origin in NOTEBOOKS:
        text, figures = notebook.read(ROOT / origin)
        content[page_of(origin)] = linked_names(with_links(text, origin, found))
        content |= {f"notebooks/{name}": figure for name, figure in figures.items()}
    content |= {page_of_section(title): functions_of(title) for title in API}
    for path in sorted(found):
        if page_of(path) not in content:
            content[page_of(path)] = shown(path)
    return content | {path.name: path.read_bytes() for path in HERE.glob("theme/*")}


def shown(path):
    """Return a file of the repository that a page links to, as a page if it is text."""
    if path.endswith(".png"):
        return (ROOT / path).read_bytes()
    language = "python" if path.endswith(".py") else "text"
    return f"# {path}\n\n````{language}\n{(ROOT / path).read_text().rstrip()}\n````\n"


def page_of_section(title):
    """Return the page of a section of docs/api.md."""
    return f"api/{title.lower().replace(' ', '_')}.md"


def functions_of(title):
    """Return the page of a section of the API: what each row is for, and its functions."""
    blocks = [f"# {title}"]
    for purpose, names in API[title]:
        blocks.append(f"## {purpose[0].upper()}{purpose[1:]}")
        blocks += (f"::: jsoftmax.{name}" for name in names)
    return "\n\n".join(blocks) + "\n"


def config():
    """Return mkdocs.yml with its lists of pages."""
    coming_from = [path for path in DOCS if path.startswith("docs/coming_from/")]
    lists = {
        "NOTEBOOKS": [page_of(path) for path in NOTEBOOKS],
        "COMING_FROM": ["coming_from/index.md", *map(page_of, coming_from)],
        "API": ["api/index.md", *map(page_of_section, API)],
        "ROOT": [str(ROOT)],
    }
    text = (HERE / "mkdocs.yml").read_text()
    for name, each in lists.items():
        text = text.replace(f"[{name}]", json.dumps(each))
    for path in DOCS:
        if page_of(path) not in text:
            raise ValueError(f"{path} is not listed in mkdocs.yml")
    return text


def build(folder):
    """Write the pages to a folder, and the site to its folder `site`."""
    for path, content in pages().items():
        target = folder / "pages" / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
    (folder / "mkdocs.yml").write_text(config())
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    environment = os.environ | {"PYTHONPATH": str(HERE)}  # the extensions named in mkdocs.yml
    subprocess.run(command, cwd=folder, env=environment, check=True)
    for page in sorted((folder / "site").rglob("*.html")):
        for tag in ELSEWHERE.findall(page.read_text()):
            raise ValueError(f"{page.name} would load something from the network: {tag}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        build(Path(folder))
        shutil.rmtree(ROOT / "site", ignore_errors=True)
        shutil.move(Path(folder) / "site", ROOT / "site")
    print("wrote site/index.html")
