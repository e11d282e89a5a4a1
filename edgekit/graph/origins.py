"""Where each node came from: the torch exporter's stack traces become a map with relative paths, and leave the file.

The exporter embeds absolute paths of the environment in every node. Shipped, they would leak them and make the bytes
differ between two checkouts of the same code.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

from onnx import GraphProto, ModelProto

from edgekit.bundle.manifest import Origin

_FRAME = re.compile(r'File "([^"]+)", line (\d+)')
_LIBRARY = re.compile(r"(torch|onnxscript)/")


def collect_origins(model: ModelProto) -> dict[str, Origin]:
    """Node name to the innermost torch module and the innermost source line outside torch itself."""
    origins = {}
    for node in model.graph.node:
        metadata = {entry.key: entry.value for entry in node.metadata_props}
        scopes = metadata.get("pkg.torch.onnx.name_scopes")
        if scopes is not None:
            file, line = _source_line(metadata.get("pkg.torch.onnx.stack_trace", ""))
            origins[node.name] = Origin(module=_module(scopes), file=file, line=line)
    return origins


def strip_metadata(model: ModelProto) -> ModelProto:
    """A copy without documentation strings and metadata, with edgekit as its producer."""
    copy = ModelProto()
    copy.CopyFrom(model)
    copy.producer_name, copy.producer_version, copy.doc_string, copy.domain = "edgekit", "", "", ""
    copy.ClearField("metadata_props")
    copy.graph.name = "main"
    _strip_graph(copy.graph)
    return copy


def _strip_graph(graph: GraphProto) -> None:
    for item in [graph, *graph.input, *graph.output, *graph.value_info, *graph.initializer, *graph.node]:
        item.doc_string = ""
        item.ClearField("metadata_props")
    for node in graph.node:
        for attribute in node.attribute:
            attribute.doc_string = ""
            if attribute.HasField("t"):  # writing to an absent field would make it present
                attribute.t.doc_string = ""
            if attribute.HasField("g"):
                _strip_graph(attribute.g)


def _module(scopes: str) -> str:
    """The last but one scope is the module's qualified name; the last is the operator."""
    names = [str(name) for name in ast.literal_eval(scopes)]
    return names[-2] if len(names) > 1 else ""


def _source_line(trace: str) -> tuple[str | None, int | None]:
    frames = [(_relative(file), int(line)) for file, line in _FRAME.findall(trace)]
    own = [frame for frame in frames if not _LIBRARY.match(frame[0])]
    return own[-1] if own else (None, None)


def _relative(file: str) -> str:
    """The path below the longest import root that holds it, or the bare name."""
    path = Path(file)
    roots = sorted((Path(entry).absolute() for entry in sys.path if entry), key=lambda root: -len(root.parts))
    found = next((path.relative_to(root) for root in roots if path.is_relative_to(root)), Path(path.name))
    return found.as_posix()
