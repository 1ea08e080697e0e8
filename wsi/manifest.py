"""What viewers must know of a slide before they ask for tiles: our manifest, and that of Orthanc's WSI plug-in."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from dicomweb.pixels.image import MONOCHROME, ImagePixel
from dicomweb.rendered.attributes import items, number, numbers, text
from dicomweb.slides.background import Rgb
from dicomweb.slides.channels import display_of, in_shades
from dicomweb.slides.levels import Rung
from dicomweb.slides.pyramid import Slide
from dicomweb.slides.tiled import OpticalPath, Tiled
from storage.slides import StoredSlide
from wsi.blending import MAX_COMPONENTS

_MICRONS = 1000


def manifest(stored: StoredSlide, base_url: str, dicomweb_root: str) -> dict[str, Any]:
    """The manifest; `base_url`: where `/wsi/slides/{series}` is, `dicomweb_root`: that of its instances' resources.

    Every URL in it carries the version, so that what is fetched through it may be cached for ever.
    """
    slide, version = stored.slide, stored.name
    origin = next(iter(items(_sample(slide), "00480008")), {})
    return {
        "series": stored.series,
        "study": stored.study,
        "version": version,
        "width": slide.base.width,
        "height": slide.base.height,
        "mpp": mpp_of(slide, slide.rungs[0]),
        "objective_power": _objective_power(slide),
        "background": _hexadecimal(slide.background),
        "levels": [_level(slide, index, rung) for index, rung in enumerate(slide.rungs)],
        "tiles": f"{base_url}/tiles/{{level}}/{{x}}/{{y}}?v={version}",
        "blended": _blended(slide, f"{base_url}/tiles/{{level}}/{{x}}/{{y}}?v={version}"),
        "optical_paths": [_path(slide, path) for path in slide.paths],
        "shades": _shades(_sample(slide), slide.instances[slide.base.sample].image),
        "focal_planes": {"z_um": list(slide.depths), "default": slide.focal},
        "images": {
            name: _image(stored, place, dicomweb_root)
            for name, place in (("label", slide.label), ("overview", slide.overview), ("thumbnail", slide.thumbnail))
            if place is not None
        },
        "icc": sorted({digest for digest in stored.icc if digest}),
        "coordinates": {
            "frame_of_reference": slide.instances[slide.base.sample].frame_of_reference,
            "origin_mm": [number(origin, "0040072A") or 0.0, number(origin, "0040073A") or 0.0],
            "orientation": numbers(_sample(slide), "00480102"),
        },
        "problems": [{"name": p.name, "detail": p.detail, "instance": p.sop or None} for p in slide.problems],
    }


def _path(slide: Slide, path: OpticalPath) -> dict[str, Any]:
    shown = display_of(slide, path.identifier) if in_shades(slide) else None
    return {
        "identifier": path.identifier,
        "description": path.description,
        "wavelength_nm": path.wavelength,
        "icc_profile": path.icc,
        "colour": _hexadecimal(shown.colour) if shown else None,
        "window": [shown.low, shown.high] if shown else None,
    }


def _blended(slide: Slide, tiles: str) -> str | None:
    """The template of tiles that show all optical paths, the first of them where there are too many."""
    if not in_shades(slide):
        return None
    paths = slide.paths[:MAX_COMPONENTS]
    return tiles + "".join(f"&channel={quote(path.identifier, safe='')}:::" for path in paths)


def _hexadecimal(colour: Rgb) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)


def orthanc_pyramid(stored: StoredSlide, identifier: str) -> dict[str, Any]:
    """The answer of Orthanc's `/wsi/pyramids/{series}`: levels that are stored or were derived, from the finest."""
    slide = stored.slide
    answer: dict[str, Any] = {
        "ID": identifier,
        "Resolutions": [slide.base.width / level.width for level in slide.levels],
        "Sizes": [[level.width, level.height] for level in slide.levels],
        "TilesCount": [[level.across, level.down] for level in slide.levels],
        "TilesSizes": [[level.columns, level.rows] for level in slide.levels],
        "TotalWidth": slide.base.width,
        "TotalHeight": slide.base.height,
        "BackgroundColor": _hexadecimal(slide.background),
    }
    for name, tag in (("ImagedVolumeWidth", "00480001"), ("ImagedVolumeHeight", "00480002")):
        size = number(_sample(slide), tag)
        if size is not None:
            answer[name] = size
    return answer


def _sample(slide: Slide) -> Mapping[str, Any]:
    return slide.instances[slide.base.sample].dataset


def _level(slide: Slide, index: int, rung: Rung) -> dict[str, Any]:
    return {
        "level": index,
        "width": rung.width,
        "height": rung.height,
        "tile_width": rung.columns,
        "tile_height": rung.rows,
        "columns": rung.across,
        "rows": rung.down,
        "downsample": slide.base.width / rung.width,
        "mpp": mpp_of(slide, rung),
        "stored": rung.factor == 1 and not slide.levels[rung.level].derived,
        "derived": slide.levels[rung.level].derived,
    }


def mpp_of(slide: Slide, rung: Rung) -> list[float] | None:
    """Micrometres a pixel, across and down: of the level itself, else of the finest one that says it."""
    for level in (slide.levels[rung.level], *slide.levels):
        if level.spacing is not None:
            down, across = level.spacing
            return [
                round(across * _MICRONS * level.width / rung.width, 6),
                round(down * _MICRONS * level.height / rung.height, 6),
            ]
    return None


def _objective_power(slide: Slide) -> float | None:
    paths = items(_sample(slide), "00480105")
    return next((power for path in paths if (power := number(path, "00480112")) is not None), None)


def _shades(dataset: Mapping[str, Any], image: ImagePixel) -> dict[str, Any] | None:
    """The range of shades of a monochrome slide and the window of the instance: its darkest and brightest shade."""
    if image.photometric not in MONOCHROME:
        return None
    low = -(1 << image.bits_stored - 1) if image.signed else 0
    high = low + (1 << image.bits_stored) - 1
    shared = next(iter(items(dataset, "52009229")), {})
    voi = next(iter(items(shared, "00289132")), dataset)
    center, width = number(voi, "00281050"), number(voi, "00281051")
    window = None if center is None or width is None else [center - width / 2, center + width / 2]
    return {"low": low, "high": high, "window": window}


def _image(stored: StoredSlide, place: int, dicomweb_root: str) -> dict[str, Any]:
    tiled: Tiled = stored.slide.instances[place]
    instance = stored.instances[place]
    url = f"{dicomweb_root}/studies/{stored.study}/series/{stored.series}/instances/{tiled.sop}/rendered"
    return {
        "instance": tiled.sop,
        "width": tiled.width,
        "height": tiled.height,
        "url": f"{url}?v={instance.version}",
        "identifies": tiled.flavor == "LABEL" or text(tiled.dataset, "00280301") == "YES",
    }
