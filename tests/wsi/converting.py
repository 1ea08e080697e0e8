"""Conversions where the test runs: what a process of their own adds are seconds of imports, and limits."""

from pathlib import Path

from wsi.convert.opening import open_source
from wsi.convert.options import Options
from wsi.convert.run import Converted, nothing
from wsi.convert.slide import Conversion


def converted_here(path: Path, out: Path, given: dict[str, object]) -> Converted:
    """As `wsi.convert.process` does it, options through JSON as well; `peak` is 0. Raises BadSlide."""
    options = Options.parse(Options.parse(given).prepared().as_json())
    source = open_source(path, deidentify=options.deidentify)
    try:
        written = Conversion(source, path, out, options, nothing).run()
    finally:
        source.close()
    return Converted(written.study, written.series, tuple(written.files), 0)
