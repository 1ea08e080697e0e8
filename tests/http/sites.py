"""What the tests of Orthanc's Python clients share: a study with every attribute that they have properties for."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydicom import Dataset

from dicomweb.uids import OrthancIds, orthanc_ids
from tests.files import dataset, encoded, new_uid

UIDS = ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")


@dataclass
class Sent:
    """A study of `series` x `images` of a patient of its own. The position of an image grows as its number falls."""

    series: int = 1
    images: int = 3
    attributes: dict[str, Any] = field(default_factory=dict)
    files: list[Dataset] = field(init=False)

    def __post_init__(self) -> None:
        study, patient = new_uid(), f"PY-{new_uid()[-10:]}"
        self.files = []
        for number in range(1, self.series + 1):
            series = new_uid()
            for image in range(1, self.images + 1):
                of_image = {
                    "InstanceNumber": image, "AcquisitionNumber": 3, "ImageIndex": image, "ImageComments": "still",
                    "NumberOfFrames": 1, "TemporalPositionIdentifier": 2, "InstanceCreationDate": "20240131",
                    "InstanceCreationTime": "101500", "ImagePositionPatient": [1.5, -2, -10.0 * image],
                    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "WindowCenter": "8", "WindowWidth": "16",
                }  # fmt: skip
                self.files.append(dataset(**{
                    "PatientID": patient, "StudyInstanceUID": study, "SeriesInstanceUID": series,
                    "SeriesNumber": number, "OtherPatientIDs": ["X1", "X2"], "InstitutionName": "Klinik",
                    "RequestingPhysician": "Asker^Ada", "RequestedProcedureDescription": "CT Thorax",
                    "SeriesDate": "20240131", "SeriesTime": "101600", "Manufacturer": "Maker",
                    "StationName": "CT-7", "ProtocolName": "Chest", "BodyPartExamined": "CHEST",
                    "SequenceName": "seq", "OperatorsName": "Op^Ina", "ContrastBolusAgent": "none",
                    "PerformedProcedureStepDescription": "Chest CT", "SeriesType": ["STATIC", "IMAGE"],
                    "AcquisitionDeviceProcessingDescription": "plain", "CardiacNumberOfImages": 4,
                    "ImagesInAcquisition": self.images, "NumberOfTemporalPositions": 1, "NumberOfSlices": self.images,
                    "NumberOfTimeSlices": 1,
                } | of_image | self.attributes))  # fmt: skip

    @property
    def ids(self) -> list[OrthancIds]:
        """Of every file."""
        return [orthanc_ids(*(str(ds[name].value) for name in UIDS)) for ds in self.files]

    @property
    def first(self) -> Dataset:
        return self.files[0]

    def contents(self) -> list[bytes]:
        return [encoded(ds) for ds in self.files]

    def write(self, folder: Path) -> Path:
        """The files below a folder, every second one deeper."""
        for number, content in enumerate(self.contents()):
            place = folder if number % 2 == 0 else folder / "deeper"
            place.mkdir(parents=True, exist_ok=True)
            (place / f"{number}.dcm").write_bytes(content)
        return folder
