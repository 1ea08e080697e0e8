"""What an instance is rendered from, and the media types that it can become (PS3.18 8.7.4)."""

from dataclasses import dataclass
from typing import Literal

from dicomweb.media import FRAME_MEDIA_TYPE_OF
from dicomweb.rendered.document import document_length, documents_of_class
from dicomweb.rendered.encode import IMAGE_TYPES
from dicomweb.rendered.report import REPORT_TYPES, is_report_class
from storage.pixels import Dataset, Image
from storage.retrieve import Instance, Located

Kind = Literal["image", "video", "report", "document"]


@dataclass(frozen=True, slots=True)
class Subject:
    """What an instance is rendered from, and the media types that it can become, the preferred one first.

    `image` for images and video; `located` and `inline`: a document, one of the two.
    """

    kind: Kind
    types: tuple[str, ...]
    instance: Instance
    dataset: Dataset
    image: Image | None = None
    located: Located | None = None
    inline: bytes = b""

    @property
    def picture(self) -> Image:
        """The image of a subject that has one."""
        assert self.image is not None
        return self.image

    @property
    def size(self) -> int:
        """Bytes of a document or video."""
        stored = len(self.inline) if self.located is None else self.located.size(0)
        return document_length(self.dataset, stored) if self.kind == "document" else stored


def types_of(instance: Instance) -> tuple[str, ...]:
    """The media types that an instance can probably become: from its frames, without any from its class."""
    if instance.has_frames:
        stored = FRAME_MEDIA_TYPE_OF.get(instance.transfer_syntax, "")
        return (stored,) if stored.startswith("video/") else IMAGE_TYPES
    return REPORT_TYPES if is_report_class(instance.sop_class) else documents_of_class(instance.sop_class)
