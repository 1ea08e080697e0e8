"""The attributes of the instances of a slide (PS3.3 A.32.8, VL Whole Slide Microscopy Image IOD)."""

import copy
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import PurePath
from typing import Any, Final

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.uid import VLWholeSlideMicroscopyImageStorage

from dicomweb.pixels.image import ImagePixel
from wsi.convert.options import Options
from wsi.convert.profile import profile_for
from wsi.convert.source import BadSlide, Channel, PictureKind, Scan, SourceLevel

# A slide has 25 x 75 mm (ISO 8037-1); nobody says where on it the scan lies, so it is put in the middle.
_SLIDE_MM: Final = (25.0, 75.0)
_DEPTH_MM: Final = 0.001
# What the pixels decide is not for metadata to say.
_DECIDED: Final = frozenset((
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "SpecificCharacterSet", "ImageType",
    "Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "TotalPixelMatrixColumns",
    "TotalPixelMatrixRows", "TotalPixelMatrixFocalPlanes", "NumberOfOpticalPaths", "DimensionOrganizationType",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "OpticalPathSequence",
    "LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod",
    "TotalPixelMatrixOriginSequence", "ImagedVolumeWidth", "ImagedVolumeHeight", "ImagedVolumeDepth", "InstanceNumber",
    "PyramidUID", "SpecimenLabelInImage", "BurnedInAnnotation", "PresentationLUTShape", "RescaleIntercept",
    "RescaleSlope",
))  # fmt: skip
_BINARY: Final = frozenset(("OB", "OD", "OF", "OL", "OV", "OW", "UN", "AT"))
_MAX_DEPTH: Final = 8


def code(value: str, scheme: str, meaning: str) -> Dataset:
    """A code sequence item."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item


class SlideAttributes:
    """What all instances of one slide share, and what each has of its own."""

    def __init__(self, path: PurePath, scan: Scan, base: SourceLevel, options: Options) -> None:
        self._scan = scan
        self._base = base
        self._options = options
        mpp = (options.mpp, options.mpp) if options.mpp else scan.mpp
        if mpp is None:
            raise BadSlide("the file does not say how large a pixel is: give mpp, in micrometres")
        self._size_mm = (base.width * mpp[0] / 1000, base.height * mpp[1] / 1000)
        self._name = options.name or ("" if options.deidentify else path.stem[:64])
        self._icc, self._space = profile_for(scan.icc, options)
        self._shared = self._common()

    @property
    def series(self) -> str:
        """The Series Instance UID."""
        return str(self._shared.SeriesInstanceUID)

    @property
    def study(self) -> str:
        """The Study Instance UID."""
        return str(self._shared.StudyInstanceUID)

    # -- instances

    def level(self, number: int, shape: SourceLevel, pixel: ImagePixel) -> Dataset:
        """A VOLUME instance."""
        kind = (
            ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"] if number == 0 else ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
        )
        ds = self._instance(f"level {number}", number + 1, kind, (shape.width, shape.height), pixel)
        self._place(ds)
        ds.PyramidUID = self._options.uid("pyramid")
        return ds

    def picture(
        self, kind: PictureKind, size: tuple[int, int], pixel: ImagePixel, cut: tuple[int, int, int, int] | None = None
    ) -> Dataset:
        """A LABEL, OVERVIEW or THUMBNAIL instance of one frame.

        `cut`: what it is a part of was `cut[2:]` wide and high, and it begins at `cut[:2]`.
        """
        number = {"label": 101, "overview": 102, "thumbnail": 103}[kind]
        made = "RESAMPLED" if kind == "thumbnail" else "NONE"
        original = "DERIVED" if kind == "thumbnail" else "ORIGINAL"
        ds = self._instance(kind, number, [original, "PRIMARY", kind.upper(), made], size, pixel)
        if kind == "thumbnail":
            self._place(ds)
            ds.PyramidUID = self._options.uid("pyramid")
            return ds
        # What a camera saw of the whole slide; the size of its pixels is a guess from the size of slides.
        left, top, *whole = cut or (0, 0, *size)
        spacing = _SLIDE_MM[1 if kind == "overview" else 0] / max(whole)
        _measures(ds, (spacing, spacing))
        ds.ImagedVolumeWidth, ds.ImagedVolumeHeight = size[0] * spacing, size[1] * spacing
        ds.ImagedVolumeDepth = _DEPTH_MM
        _origin(ds, _SLIDE_MM[0] - top * spacing, _SLIDE_MM[1] - left * spacing)
        # The IOD asks for YES in every overview; of one that was cut nothing that names someone is left.
        ds.SpecimenLabelInImage, ds.BurnedInAnnotation = "YES", "YES" if cut is None else "NO"
        if "LabelText" not in ds:
            ds.LabelText = None
        if "BarcodeValue" not in ds:
            ds.BarcodeValue = None
        return ds

    def _instance(self, name: str, number: int, kind: list[str], size: tuple[int, int], pixel: ImagePixel) -> Dataset:
        ds = copy.deepcopy(self._shared)
        ds.SOPInstanceUID = self._options.uid(name)
        ds.InstanceNumber, ds.ImageType = number, kind
        single = number > 100
        channels = (Channel(),) if single else self._scan.channels
        depths = (0.0,) if single else self._scan.depths
        ds.NumberOfFrames, ds.Rows, ds.Columns = pixel.number_of_frames, pixel.rows, pixel.columns
        ds.SamplesPerPixel, ds.PhotometricInterpretation = pixel.samples, pixel.photometric
        if pixel.samples > 1:
            ds.PlanarConfiguration = 0
        ds.BitsAllocated, ds.BitsStored, ds.HighBit = pixel.bits_allocated, pixel.bits_stored, pixel.bits_stored - 1
        ds.PixelRepresentation = 0
        if pixel.samples == 1:
            ds.PresentationLUTShape, ds.RescaleIntercept, ds.RescaleSlope = "IDENTITY", 0, 1
        ds.TotalPixelMatrixColumns, ds.TotalPixelMatrixRows = size
        ds.TotalPixelMatrixFocalPlanes = len(depths)
        ds.NumberOfOpticalPaths = len(channels)
        ds.OpticalPathSequence = [self._path(n, each, pixel) for n, each in enumerate(channels, 1)]
        ds.SpecimenLabelInImage = ds.BurnedInAnnotation = "NO"
        frame_type, shared = Dataset(), Dataset()
        frame_type.FrameType = kind
        shared.WholeSlideMicroscopyImageFrameTypeSequence = [frame_type]
        ds.SharedFunctionalGroupsSequence = [shared]
        return ds

    def _place(self, ds: Dataset) -> None:
        """Where an image of the whole matrix lies. Its rows run along the slide, from the far end to the label."""
        across, down = self._size_mm
        ds.ImagedVolumeWidth, ds.ImagedVolumeHeight = across, down
        ds.ImagedVolumeDepth = max(_DEPTH_MM, (self._scan.depths[-1] - self._scan.depths[0]) / 1000)
        _measures(ds, (across / ds.TotalPixelMatrixColumns, down / ds.TotalPixelMatrixRows), self._spacing())
        _origin(ds, *(self._options.origin or ((_SLIDE_MM[0] + down) / 2, (_SLIDE_MM[1] + across) / 2)))

    def _spacing(self) -> float | None:
        depths = self._scan.depths
        return (depths[1] - depths[0]) / 1000 if len(depths) > 1 else None

    def _path(self, number: int, channel: Channel, pixel: ImagePixel) -> Dataset:
        path = Dataset()
        path.OpticalPathIdentifier = str(number)
        if channel.name:
            path.OpticalPathDescription = channel.name
        if pixel.samples > 1:
            path.IlluminationTypeCodeSequence = [code("111744", "DCM", "Brightfield illumination")]
            path.IlluminationColorCodeSequence = [code("414298005", "SCT", "Full Spectrum")]
            path.ICCProfile = self._icc + b"\0" * (len(self._icc) % 2)
            if self._space:
                path.ColorSpace = self._space
        else:
            path.IlluminationTypeCodeSequence = [code("111743", "DCM", "Epifluorescence illumination")]
            if channel.wavelength:
                path.IlluminationWaveLength = channel.wavelength
            else:
                path.IlluminationColorCodeSequence = [code("414298005", "SCT", "Full Spectrum")]
        if self._scan.objective_power:
            path.ObjectiveLensPower = self._scan.objective_power
        return path

    # -- shared

    def _common(self) -> Dataset:
        ds, options = Dataset(), self._options
        ds.SpecificCharacterSet = "ISO_IR 192"
        ds.SOPClassUID = VLWholeSlideMicroscopyImageStorage
        ds.PatientName = ds.PatientID = ds.PatientBirthDate = ds.PatientSex = None
        ds.StudyInstanceUID = options.study or options.uid("study")
        ds.SeriesInstanceUID = options.series or options.uid("series")
        ds.StudyID = ds.AccessionNumber = ds.ReferringPhysicianName = None
        ds.Modality, ds.SeriesNumber = "SM", 1
        self._dates(ds)
        ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = options.uid("frame of reference"), "SLIDE_CORNER"
        self._equipment(ds)
        self._specimen(ds)
        ds.VolumetricProperties, ds.ExtendedDepthOfField = "VOLUME", "NO"
        ds.FocusMethod, ds.AcquisitionContextSequence = "AUTO", []
        ds.ImageOrientationSlide = [0, -1, 0, -1, 0, 0]
        organization = Dataset()
        organization.DimensionOrganizationUID = options.uid("dimensions")
        ds.DimensionOrganizationSequence, ds.DimensionOrganizationType = [organization], "TILED_FULL"
        if options.deidentify:
            ds.PatientIdentityRemoved = "YES"
            kept = ["A part of the overview was chosen and is kept"] if options.overview_part else []
            ds.DeidentificationMethod = ["Label, overview and what the scanner wrote are left out", *kept]
        _merge(ds, dict(options.metadata or {}))
        return ds

    def _dates(self, ds: Dataset) -> None:
        created = self._options.time
        scanned = created if self._options.deidentify or self._scan.acquired is None else self._scan.acquired
        ds.StudyDate = ds.SeriesDate = scanned.strftime("%Y%m%d")
        ds.StudyTime = ds.SeriesTime = scanned.strftime("%H%M%S")
        ds.AcquisitionDateTime = scanned.strftime("%Y%m%d%H%M%S")
        ds.ContentDate, ds.ContentTime = created.strftime("%Y%m%d"), created.strftime("%H%M%S")
        ds.InstanceCreationDate, ds.InstanceCreationTime = ds.ContentDate, ds.ContentTime

    def _equipment(self, ds: Dataset) -> None:
        scan, hidden = self._scan, self._options.deidentify
        ds.Manufacturer = scan.manufacturer or "unknown"
        ds.ManufacturerModelName = scan.model or "unknown"
        ds.DeviceSerialNumber = scan.serial if scan.serial and not hidden else "unknown"
        ds.SoftwareVersions = _line(scan.software) if scan.software and not hidden else "unknown"
        converter = Dataset()
        converter.PurposeOfReferenceCodeSequence = [code("109106", "DCM", "Enhanced Multi-frame Conversion Equipment")]
        converter.Manufacturer, converter.SoftwareVersions = "Anor", version("anor")
        converter.ContributionDateTime = self._options.time.strftime("%Y%m%d%H%M%S")
        ds.ContributingEquipmentSequence = [converter]

    def _specimen(self, ds: Dataset) -> None:
        name = self._name or self._options.uid("container")
        ds.ContainerIdentifier = _line(name)
        ds.IssuerOfTheContainerIdentifierSequence = []
        ds.ContainerTypeCodeSequence = [code("433466003", "SCT", "Microscope slide")]
        specimen = Dataset()
        specimen.SpecimenIdentifier, specimen.SpecimenUID = _line(name), self._options.uid("specimen")
        specimen.IssuerOfTheSpecimenIdentifierSequence = specimen.SpecimenPreparationSequence = []
        ds.SpecimenDescriptionSequence = [specimen]


def _line(text: str) -> str:
    """A value of VR LO: one line of 64 characters without a backslash."""
    return " ".join(text.replace("\\", "/").split())[:64] or "unknown"


def _measures(ds: Dataset, spacing: tuple[float, float], between: float | None = None) -> None:
    """Pixel Spacing is (down, across)."""
    measures = Dataset()
    measures.PixelSpacing = [_ds(spacing[1]), _ds(spacing[0])]
    measures.SliceThickness = _ds(_DEPTH_MM)
    if between:
        measures.SpacingBetweenSlices = _ds(between)
    ds.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence = [measures]


def _ds(value: float) -> str:
    """A decimal string of at most 16 characters."""
    return f"{value:.10g}"


def _origin(ds: Dataset, x: float, y: float) -> None:
    origin = Dataset()
    origin.XOffsetInSlideCoordinateSystem, origin.YOffsetInSlideCoordinateSystem = _ds(x), _ds(y)
    ds.TotalPixelMatrixOriginSequence = [origin]


def _merge(ds: Dataset, given: Mapping[str, Any], depth: int = 0) -> None:
    """Set attributes by keyword; sequences are lists of objects. Raises BadSlide that names the attribute."""
    for keyword, value in given.items():
        tag = tag_for_keyword(keyword)
        if tag is None:
            raise BadSlide(f"metadata: {keyword[:64]} is no DICOM keyword")
        vr = dictionary_VR(tag)
        if (depth == 0 and keyword in _DECIDED) or vr[:2] in _BINARY or tag >> 16 == 2:
            raise BadSlide(f"metadata: {keyword} is not for the metadata to say")
        made = _items(keyword, value, depth) if vr == "SQ" else value
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                setattr(ds, keyword, made)
            except Exception as error:  # whatever pydicom makes of a value of a wrong type
                raise BadSlide(f"metadata: {keyword} cannot have that value") from error


def _items(keyword: str, value: object, depth: int) -> list[Dataset]:
    if depth >= _MAX_DEPTH or not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise BadSlide(f"metadata: {keyword} is a list of objects, nested at most {_MAX_DEPTH} deep")
    made = [Dataset() for _ in value]
    for item, each in zip(made, value, strict=True):
        _merge(item, each, depth + 1)
    return made
