"""Edits of DICOM files as streams: replace, remove, map, at any depth, without holding what stays as it is."""

from dicomweb.edit.edit import Edit
from dicomweb.edit.rules import Rules
from dicomweb.edit.splices import Extent, Segment

__all__ = ["Edit", "Extent", "Rules", "Segment"]
