"""A notebook as a page: its text, its code, and what the code has shown."""

import base64
import itertools
import json


def read(path):
    """Return the Markdown of a notebook, and its figures by name."""
    blocks, figures = [], {}
    for cell in json.loads(path.read_text())["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(source)
        elif cell["cell_type"] == "code" and source:
            blocks.append(f"```python\n{source}\n```")
            for drawn, outputs in itertools.groupby(cell["outputs"], _is_drawn):
                if drawn:
                    blocks += (_figure(output, path.stem, figures) for output in outputs)
                else:
                    text = "".join(map(_text, outputs)).rstrip()
                    blocks.append(f"```{{ .text .output }}\n{text}\n```")
    return "\n\n".join(blocks) + "\n", figures


def _is_drawn(output):
    return "image/png" in output.get("data", {})


def _figure(output, stem, figures):
    name = f"{stem}_{len(figures) + 1}.png"
    figures[name] = base64.b64decode(output["data"]["image/png"])
    alt = output["metadata"].get("image/png", {}).get("alt", "What the code above draws")
    return f"![{alt}]({name})"


def _text(output):
    return "".join(output.get("text", output.get("data", {}).get("text/plain", "")))
