"""A notebook as a page: its text, its code, and what the code has shown."""

import base64
import json


def read(path):
    """Return the Markdown of a notebook, and its figures by name."""
    blocks, figures = [], {}
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(source)
        elif cell["cell_type"] == "code" and source:
            blocks.append(_code(source, cell["metadata"]))
            for output in cell["outputs"]:
                blocks.append(_output(output, path.stem, figures))
    return "\n\n".join(blocks) + "\n", figures


def _code(source, metadata):
    block = f"```python\n{source}\n```"
    if "hide-input" not in metadata.get("tags", ()):
        return block
    return '??? quote "Code of the figure"\n\n' + "".join(
        f"    {line}" for line in block.splitlines(keepends=True)
    )


def _output(output, stem, figures):
    data = output.get("data", {})
    if "image/png" in data:
        name = f"{stem}_{len(figures) + 1}.png"
        figures[name] = base64.b64decode(data["image/png"])
        alt = output["metadata"].get("image/png", {}).get("alt", "What the code above draws")
        return f"![{alt}]({name})"
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```{{ .text .output }}\n{text.rstrip()}\n```"
