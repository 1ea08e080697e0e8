"""Text on images: every script that a font has, no empty boxes, columns that never overlap."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ImageFont

from dicomweb.rendered.annotation import draw_text
from dicomweb.rendered.lettering import Lettering
from storage.fonts import Fonts
from storage.settings import SettingError, load_settings

BLACK = np.zeros((512, 512), np.uint8)


def dataset(name: dict[str, str], **technique: str) -> dict[str, Any]:
    tags = {"modality": "00080060", "maker": "00080070"}
    values = {tags[key]: {"vr": "LO", "Value": [value]} for key, value in technique.items()}
    return {"00100010": {"vr": "PN", "Value": [name]}, "00100020": {"vr": "LO", "Value": ["P-1"]}} | values


def columns(drawn: np.ndarray) -> list[int]:
    return np.flatnonzero(drawn.any(axis=0)).tolist()


@pytest.fixture(scope="module")
def fonts() -> Fonts:
    found = Fonts(None)
    assert "DejaVuSans.ttf" in found.name, "apt-get install fonts-dejavu-core"
    return found


def test_scripts_of_the_font(fonts: Fonts) -> None:
    letters = Lettering(fonts.faces, 16)
    for text in ("Müller", "Жуков Иван", "Παπαδόπουλος", "עברית", "عربي"):
        assert letters.drawable(text) == text
    russian = draw_text(BLACK, dataset({"Alphabetic": "Ж^И"}), ("patient",), fonts.faces)
    others = draw_text(BLACK, dataset({"Alphabetic": "Ш^Ю"}), ("patient",), fonts.faces)
    assert not np.array_equal(russian, others)


def test_what_no_font_has() -> None:
    letters = Lettering((), 16)
    assert letters.drawable("Çelik Ångström") == "Celik Angstrom"
    assert letters.drawable("山田 Ж") == "?? ?"
    assert letters.drawable("ＡＢ") == "AB"  # full width


def test_a_font_is_taken_for_the_characters_that_it_has_alone(fonts: Fonts) -> None:
    asked: list[str] = []

    class Listening:
        def __init__(self, font: Any) -> None:
            self.font = font

        def getmask(self, text: str) -> Any:
            return self.font.getmask(text)

        def getlength(self, text: str) -> float:
            asked.append(text)
            return float(self.font.getlength(text))

    def latin(size: int) -> Any:
        return Listening(ImageFont.load_default(size))

    Lettering((latin, *fonts.faces), 16).width("Doe Ж И Roe")
    assert asked == ["Doe ", "Roe"]


def test_names_without_an_alphabetic_form_are_drawn(fonts: Fonts) -> None:
    for form in ("Ideographic", "Phonetic"):
        drawn = draw_text(BLACK, dataset({form: "Αβ^Γ"}), ("patient",), fonts.faces)
        assert np.array_equal(drawn, draw_text(BLACK, dataset({"Alphabetic": "Αβ^Γ"}), ("patient",), fonts.faces))


@pytest.mark.parametrize("side", [96, 128, 200, 512])
def test_columns_never_overlap(fonts: Fonts, side: int) -> None:
    image = np.zeros((side, side), np.uint8)
    shown = dataset({"Alphabetic": "Mustermann^Maximilian"}, modality="CT", maker="A Maker Of Many Words GmbH")
    both = draw_text(image, shown, ("patient", "technique"), fonts.faces).astype(int)
    patient = draw_text(image, shown, ("patient",), fonts.faces).astype(int)
    assert patient.any()
    # What technique adds lies where the patient's text is not.
    assert np.array_equal(both * (patient > 0), patient)
    technique = both - patient
    assert technique.any()
    for row in range(side):
        if patient[row].any() and technique[row].any():
            assert columns(patient[row : row + 1])[-1] + 4 < columns(technique[row : row + 1])[0]
    assert both[:, -2:].max() == 0
    assert not draw_text(np.zeros((95, 300), np.uint8), shown, ("patient",), fonts.faces).any()


def test_long_lines_are_cut(fonts: Fonts) -> None:
    letters = Lettering(fonts.faces, 16)
    cut = letters.fitted("W" * 64, 100)
    assert cut.endswith("W...")
    assert letters.width(cut) <= 100 < letters.width("W" * 64)
    assert letters.fitted("Doe", 100) == "Doe"


def test_a_font_of_ones_own(fonts: Fonts, tmp_path: Path) -> None:
    source = next(Path("/usr/share/fonts").rglob("DejaVuSerif.ttf"))
    own = tmp_path / "own.ttf"
    own.write_bytes(source.read_bytes())
    settings, _ = load_settings({}, {"ANOR_ANNOTATION_FONT": str(own)}, None)
    assert settings.annotation_font == own
    with_own = Fonts(own)
    assert with_own.name.startswith(f"own.ttf:{own.stat().st_size} DejaVuSans.ttf")
    shown = dataset({"Alphabetic": "Doe"})
    drawn = draw_text(BLACK, shown, ("patient",), with_own.faces)
    assert not np.array_equal(drawn, draw_text(BLACK, shown, ("patient",), fonts.faces))
    for wrong in (tmp_path / "none.ttf", Path(__file__), tmp_path):
        with pytest.raises(SettingError, match=r"annotation_font .* is not a file with a TrueType or OpenType font"):
            load_settings({"annotation_font": str(wrong)}, {}, None)
