"""The one form in which notebooks are stored: executing a notebook twice gives the same bytes."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jupytext
from nbformat import NotebookNode
from nbformat.v4 import new_notebook, new_output
from notebook_file import code_hash, digest, is_code, library_hash, unstamped
from PIL import Image

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {"file_extension": ".py", "mimetype": "text/x-python", "name": "python", "pygments_lexer": "ipython3"}
CELL_METADATA = ("mystnb", "tags")  # all else is what front ends leave behind

# Percent scripts without a header; magics stand as they are written in a cell.
SCRIPT = {"extension": ".py", "format_name": "percent", "comment_magics": False}
SCRIPT_METADATA = {
    "notebook_metadata_filter": "-all",
    "cell_metadata_filter": ",".join(CELL_METADATA) + ",-all",
    "main_language": "python",
}


# ---- The canonical form ----------------------------------------------------------------------------------------------


def canonical(notebook: NotebookNode, provenance: NotebookNode | dict) -> NotebookNode:
    """Return the notebook in its stored form; `provenance` says what its outputs were made from."""
    cells, seen, count = [], Counter(), 0
    for given in notebook.cells:
        cell = NotebookNode(given)
        cell.source = given.source.rstrip()
        cell.metadata = NotebookNode({key: given.metadata[key] for key in CELL_METADATA if given.metadata.get(key)})
        cell.id = cell_id(cell, seen)
        if is_code(cell):
            executed = provenance and cell.source
            count += bool(executed)
            cell.execution_count = count if executed else None
            cell.outputs = [stored(output, cell) for output in merged(given.outputs)] if executed else []
        cells.append(cell)
    metadata = {"kernelspec": KERNEL, "language_info": LANGUAGE, **({"book": provenance} if provenance else {})}
    result = new_notebook(cells=cells, metadata=metadata)
    result.nbformat_minor = 5
    return result


def provenance(notebook: NotebookNode, root: Path) -> dict[str, str]:
    """Return what a notebook's outputs depend on: its own code, and what it uses of the library."""
    return {"source": code_hash(notebook), "library": library_hash(notebook, root)}


def cell_id(cell: NotebookNode, seen: Counter) -> str:
    """Return an id made from what the cell says, so that a new cell leaves the ids of the others alone."""
    name = digest(iter((cell.cell_type, unstamped(cell.source))))[:8]
    seen[name] += 1
    return name if seen[name] == 1 else f"{name}-{seen[name]}"


def merged(outputs: list[NotebookNode]) -> Iterator[NotebookNode]:
    """Yield the outputs with neighbouring pieces of one stream joined: where they break is a matter of timing."""
    waiting: NotebookNode | None = None
    for output in outputs:
        if waiting and output.output_type == "stream" and output.name == waiting.name:
            waiting = new_output("stream", name=waiting.name, text=waiting.text + output.text)
            continue
        if waiting:
            yield waiting
            waiting = None
        if output.output_type == "stream":
            waiting = output
        else:
            yield output
    if waiting:
        yield waiting


def stored(output: NotebookNode, cell: NotebookNode) -> NotebookNode:
    """Return an output with the cell's count, bare pictures, and the alt text that the author gave the cell."""
    result = NotebookNode(output)
    if result.output_type == "execute_result":
        result.execution_count = cell.execution_count
    if result.output_type in ("display_data", "execute_result"):
        result.data, result.metadata = NotebookNode(output.data), NotebookNode(output.metadata)
        if "image/png" in result.data:
            result.data["image/png"] = light_png(result.data["image/png"])
        for picture in (kind for kind in result.data if kind.startswith("image/")):
            if alt := written_alt(cell):
                result.metadata[picture] = NotebookNode({**output.metadata.get(picture, {}), "alt": alt})
    return result


def written_alt(cell: NotebookNode) -> str:
    """Return the alt text in a cell's metadata, where the site looks for it: mystnb.image.alt."""
    return cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")


def light_png(encoded: str) -> str:
    """Return a PNG, in base64, with a palette and without notes: a third of the bytes, and to the eye the same drawing.

    Figures are lines, letters and few colours, so 128 colours are enough; programs' names, versions and times go.
    """
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        if picture.mode == "P" and not picture.info.keys() - {"transparency"}:
            return encoded.replace("\n", "")  # light already: choosing colours from a choice would change them
        drawing = picture.convert("RGB").quantize(128, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    light = io.BytesIO()
    drawing.save(light, "PNG", optimize=True)
    return base64.b64encode(light.getvalue()).decode()


# ---- Percent scripts, to edit ----------------------------------------------------------------------------------------


def script_of(notebook: NotebookNode) -> str:
    """Return a notebook's cells as a percent script."""
    bare = NotebookNode(notebook)
    bare.metadata = NotebookNode({"kernelspec": KERNEL, "jupytext": SCRIPT_METADATA})
    return jupytext.writes(bare, fmt=SCRIPT)


def notebook_of(script: str, earlier: NotebookNode | None) -> NotebookNode:
    """Return the notebook of a percent script; it keeps the earlier outputs where no code cell was touched."""
    fresh = jupytext.reads(script, fmt=SCRIPT)
    if not earlier or code_hash(canonical(fresh, {})) != earlier.metadata.get("book", {}).get("source"):
        return canonical(fresh, {})
    old = [cell for cell in earlier.cells if is_code(cell)]
    for cell, known in zip((cell for cell in fresh.cells if is_code(cell)), old, strict=True):
        cell.outputs = known.outputs
    return canonical(fresh, earlier.metadata.book)
