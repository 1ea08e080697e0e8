"""What a viewer is shown: a CT stack whose slices differ, and objects that refer to it (SEG, RTSTRUCT, SR, PDF)."""

from datetime import datetime

import highdicom as hd
import numpy as np
from highdicom.sr.coding import CodedConcept
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from pydicom.uid import EncapsulatedPDFStorage, ExplicitVRLittleEndian, RTStructureSetStorage

from tests.files import dataset, encoded, new_uid

BODY, BALL = 40, 300  # Hounsfield units
_MAKER = {
    "manufacturer": "Anor",
    "manufacturer_model_name": "tests",
    "software_versions": "1",
    "device_serial_number": "1",
}


def ball(index: int, count: int, size: int) -> NDArray[np.bool_]:
    """Where the bright ball is in a slice: it moves to the right from slice to slice."""
    y, x = np.mgrid[0:size, 0:size]
    return np.asarray((x - size * (0.3 + 0.4 * index / count)) ** 2 + (y - size / 2) ** 2 < (size * 0.1) ** 2)


def stack(count: int, size: int = 128, *, noise: float = 0.0, **attributes: object) -> list[Dataset]:
    """An axial CT series of one study, 1 mm cubes; a body with a ball in it. `noise` in Hounsfield units."""
    common = {
        "StudyInstanceUID": new_uid(),
        "SeriesInstanceUID": new_uid(),
        "FrameOfReferenceUID": new_uid(),
        "Rows": size,
        "Columns": size,
        "PixelSpacing": [1.0, 1.0],
        "SliceThickness": 1.0,
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "WindowCenter": 100,
        "WindowWidth": 800,
        "PatientPosition": "HFS",
    }
    y, x = np.mgrid[0:size, 0:size]
    body = (x - size / 2) ** 2 + (y - size / 2) ** 2 < (size * 0.45) ** 2
    random = np.random.default_rng(7)
    slices = []
    for index in range(count):
        values = np.where(ball(index, count, size), BALL, np.where(body, BODY, -1000)) + 1024
        values = np.clip(values + random.normal(0, noise, values.shape), 0, 4095)
        position = {"InstanceNumber": index + 1, "ImagePositionPatient": [0.0, 0.0, float(index)]}
        slices.append(dataset(**common | position | attributes, PixelData=values.astype("<u2").tobytes()))
    return slices


def pixels(image: Dataset) -> NDArray[np.uint16]:
    """The stored values of a slice of `stack`."""
    return np.frombuffer(image.PixelData, "<u2").reshape(image.Rows, image.Columns)


def segmentation(images: list[Dataset]) -> bytes:
    """A binary SEG with one segment: the ball."""
    description = hd.seg.SegmentDescription(
        segment_number=1,
        segment_label="Ball",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Neoplasm,
        algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
    )
    count, size = len(images), images[0].Rows
    made = hd.seg.Segmentation(
        source_images=[_with_syntax(image) for image in images],
        pixel_array=np.stack([ball(index, count, size) for index in range(count)]).astype(np.uint8),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[description],
        series_instance_uid=new_uid(),
        series_number=100,
        sop_instance_uid=new_uid(),
        instance_number=1,
        series_description="Ball, segmented",
        **_MAKER,
    )
    return encoded(made, ExplicitVRLittleEndian)


def _with_syntax(image: Dataset) -> Dataset:
    encoded(image)  # sets the file meta information that highdicom reads
    return image


def report(images: list[Dataset]) -> bytes:
    """A Comprehensive 3D SR (TID 1500) with one length in the middle slice."""
    image = images[len(images) // 2]
    observer = hd.sr.ObserverContext(
        observer_type=codes.DCM.Person,
        observer_identifying_attributes=hd.sr.PersonObserverIdentifyingAttributes(name="Reader^Rita"),
    )
    line = np.array([[30.0, 64.0], [90.0, 64.0]])
    region = hd.sr.ImageRegion(
        graphic_type=hd.sr.GraphicTypeValues.POLYLINE,
        graphic_data=line,
        source_image=hd.sr.SourceImageForRegion(image.SOPClassUID, image.SOPInstanceUID),
    )
    measured = hd.sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(hd.UID(), "Length 1"),
        referenced_region=region,
        measurements=[hd.sr.Measurement(codes.SCT.Length, 60.0, CodedConcept("mm", "UCUM", "millimeter"))],
    )
    content = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_person_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=[measured],
    )
    made = hd.sr.Comprehensive3DSR(
        evidence=[_with_syntax(image)],
        content=content,
        series_number=101,
        series_instance_uid=new_uid(),
        sop_instance_uid=new_uid(),
        instance_number=1,
        manufacturer="Anor",
        is_complete=True,
    )
    made.SeriesDescription = "Lengths"
    return encoded(made, ExplicitVRLittleEndian)


def structures(images: list[Dataset]) -> bytes:
    """An RTSTRUCT with the outline of the ball as a 16-gon in every slice."""
    first, count = images[0], len(images)
    ds = _derived(first, RTStructureSetStorage, "RTSTRUCT", 102, "Outlines")
    ds.StructureSetLabel, ds.StructureSetDate, ds.StructureSetTime = "OUTLINES", "20240131", "120000"
    ds.FrameOfReferenceUID = first.FrameOfReferenceUID
    contours = []
    for index, image in enumerate(images):
        angles = np.linspace(0, 2 * np.pi, 16, endpoint=False)
        x = first.Columns * (0.3 + 0.4 * index / count) + first.Columns * 0.1 * np.cos(angles)
        y = first.Rows / 2 + first.Rows * 0.1 * np.sin(angles)
        contour = Dataset()
        contour.ContourImageSequence = Sequence([_reference(image)])
        contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 16
        points = np.column_stack([x, y, np.full(16, float(index))]).ravel()
        contour.ContourData = [f"{value:.3f}" for value in points]
        contours.append(contour)
    roi, outline, observation = Dataset(), Dataset(), Dataset()
    roi.ROINumber, roi.ROIName, roi.ROIGenerationAlgorithm = 1, "Ball", "MANUAL"
    roi.ReferencedFrameOfReferenceUID = first.FrameOfReferenceUID
    outline.ReferencedROINumber, outline.ROIDisplayColor = 1, [255, 0, 0]
    outline.ContourSequence = Sequence(contours)
    observation.ObservationNumber = observation.ReferencedROINumber = 1
    observation.RTROIInterpretedType, observation.ROIInterpreter = "GTV", ""
    ds.ReferencedFrameOfReferenceSequence = Sequence([_frame_of_reference(images)])
    ds.StructureSetROISequence = Sequence([roi])
    ds.ROIContourSequence = Sequence([outline])
    ds.RTROIObservationsSequence = Sequence([observation])
    return encoded(ds)


def _frame_of_reference(images: list[Dataset]) -> Dataset:
    frame, study, series = Dataset(), Dataset(), Dataset()
    series.SeriesInstanceUID = images[0].SeriesInstanceUID
    series.ContourImageSequence = Sequence([_reference(image) for image in images])
    study.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"
    study.ReferencedSOPInstanceUID = images[0].StudyInstanceUID
    study.RTReferencedSeriesSequence = Sequence([series])
    frame.FrameOfReferenceUID = images[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = Sequence([study])
    return frame


def _reference(image: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
    return item


def pdf(images: list[Dataset]) -> bytes:
    """An encapsulated PDF of one page; above the size that metadata carry inline."""
    ds = _derived(images[0], EncapsulatedPDFStorage, "DOC", 103, "Letter")
    ds.ConversionType, ds.BurnedInAnnotation, ds.DocumentTitle = "WSD", "YES", "Letter"
    ds.ConceptNameCodeSequence = Sequence([])
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document = _pdf_document(("Anor " * 400).encode())
    ds.EncapsulatedDocument = document + b"\0" * (len(document) % 2)
    ds.EncapsulatedDocumentLength = len(document)
    return encoded(ds)


def _pdf_document(text: bytes) -> bytes:
    stream = b"BT /F1 24 Tf 72 700 Td (Letter) Tj ET %% " + text
    font = b"/Resources << /Font << /F1 5 0 R >> >>"
    page = b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R %b >>" % font
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        page,
        b"<< /Length %d >>\nstream\n%b\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, offsets = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%b\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    return out + b"xref\n0 6\n0000000000 65535 f \n%btrailer << /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        table,
        len(out),
    )


def _derived(image: Dataset, sop_class: str, modality: str, number: int, description: str) -> Dataset:
    """A dataset of the image's patient and study, in a series of its own."""
    ds = Dataset()
    for keyword in (
        "SpecificCharacterSet", "StudyDate", "StudyTime", "AccessionNumber", "StudyDescription", "StudyInstanceUID",
        "StudyID", "ReferringPhysicianName", "PatientName", "PatientID", "PatientBirthDate", "PatientSex",
    ):  # fmt: skip
        setattr(ds, keyword, getattr(image, keyword))
    now = datetime.now().astimezone()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.SeriesInstanceUID = sop_class, new_uid(), new_uid()
    ds.Modality, ds.SeriesNumber, ds.SeriesDescription, ds.InstanceNumber = modality, number, description, 1
    ds.Manufacturer = "Anor"
    ds.ContentDate, ds.ContentTime = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    return ds
