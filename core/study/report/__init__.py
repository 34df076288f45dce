"""The report of a study: what its findings say, as a page, as text, as tables for other programs, on the terminal."""

from core.study.report.console import show
from core.study.report.sentences import sentences
from core.study.report.write import FORMATS, write

__all__ = ["FORMATS", "sentences", "show", "write"]
