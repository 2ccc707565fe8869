"""Traces that others wrote, read into trajectories: one module per format, recognised by content."""

from envecho.formats.assemble import ImportOptions
from envecho.formats.importing import FORMATS, ImportReport, import_traces
from envecho.formats.parallel import import_batches
from envecho.formats.reading import Problem
from envecho.formats.redaction import Redactor, load_hook, load_patterns
from envecho.formats.rules import PACKS, load_rules

__all__ = [
    "FORMATS",
    "PACKS",
    "ImportOptions",
    "ImportReport",
    "Problem",
    "Redactor",
    "import_batches",
    "import_traces",
    "load_hook",
    "load_patterns",
    "load_rules",
]
