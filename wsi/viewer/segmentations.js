// Segmentations over the slide: a layer of tiles for each, which the server makes in the colours of the segments.
import { row, section, swatch } from './panel.js';
import { resource } from './slide.js';

const OPACITY = 0.5;
// Levels that cannot be made are left out: the coarsest one that can is shown up to here, in pixels of it for one of the screen.
const SHRUNK = 2;
// A list of more segments is folded.
const FOLDED = 8;

class Overlay {
  constructor(map, slide, described, tell) {
    this.slide = slide;
    this.described = described;
    this.tell = tell;
    this.hidden = new Set();
    const [left, top, right, bottom] = described.bounds;
    this.levels = slide.levels.filter((level) => level.level <= described.coarsest);
    const whole = this.levels.length === slide.levels.length;
    const coarsest = slide.gridOf(this.levels).getResolution(0);
    this.layer = new ol.layer.Tile({
      extent: ol.extent.getIntersection(slide.extent, [left, -bottom, right, -top]),
      maxResolution: whole ? Infinity : coarsest * SHRUNK,
      opacity: OPACITY,
      className: 'ol-layer segmentation',
      zIndex: 10,
    });
    map.addLayer(this.layer);
    this.draw();
  }

  /** Show the segments that are not hidden. */
  draw() {
    const { instance, segments, version } = this.described;
    const numbers = segments.map((segment) => segment.number).filter((number) => !this.hidden.has(number));
    const parameters = { v: version, segments: this.hidden.size ? numbers.join(',') : undefined };
    const source = this.slide.source(parameters, { path: `segmentations/${instance}/tiles`, levels: this.levels });
    source.on('tileloaderror', () => this.tell('A part of a segmentation cannot be read.', true));
    this.layer.setSource(numbers.length ? source : null);
  }

  toggle(shown) {
    this.layer.setVisible(shown);
    this.shown.checked = shown;
  }

  controls() {
    const { label, segments } = this.described;
    const name = label || 'Segmentation';
    this.shown = dicom.element('input', { type: 'checkbox', checked: '' });
    this.shown.addEventListener('change', () => this.layer.setVisible(this.shown.checked));
    const opacity = dicom.element('input', { type: 'range', min: 0, max: 1, step: 0.05, value: OPACITY, 'aria-label': `Opacity of ${name}` });
    opacity.addEventListener('input', () => this.layer.setOpacity(Number(opacity.value)));
    const head = dicom.element('label', { class: 'row' }, this.shown, dicom.element('strong', {}, name));
    const items = segments.map((segment) => this.segment(segment));
    const list = segments.length > FOLDED ? [section(`${segments.length} segments`, false, ...items)] : items;
    const parts = [head, row('Opacity', opacity), ...list];
    if (this.layer.getMaxResolution() !== Infinity) parts.push(dicom.element('p', { class: 'note' }, 'Seen from nearer only.'));
    return dicom.element('fieldset', { 'aria-label': name }, ...parts);
  }

  segment({ number, label, type, colour }) {
    const shown = dicom.element('input', { type: 'checkbox', checked: '' });
    shown.addEventListener('change', () => {
      if (shown.checked) this.hidden.delete(number);
      else this.hidden.add(number);
      this.draw();
    });
    const text = dicom.element('span', type ? { title: type } : {}, label || type || `Segment ${number}`);
    return dicom.element('label', { class: 'row' }, shown, swatch(colour), text);
  }
}

/** The segmentations on a slide, each drawn at half its opacity. */
export class Segmentations {
  constructor(map, slide, tell) {
    this.map = map;
    this.slide = slide;
    this.tell = tell;
    this.overlays = [];
  }

  /** Find and show them. Gives the panel's section, nothing where there are none. */
  async open() {
    const answer = await fetch(resource(`wsi/slides/${this.slide.manifest.series}/segmentations`));
    if (!answer.ok) throw new Error(await dicom.problem(answer));
    const { segmentations } = await answer.json();
    this.overlays = segmentations.map((each) => new Overlay(this.map, this.slide, each, this.tell));
    return segmentations.length ? [section('Segmentations', true, ...this.overlays.map((each) => each.controls()))] : [];
  }

  /** Hide all of them, or show all where none is seen. */
  toggle() {
    const shown = !this.overlays.some((each) => each.layer.getVisible());
    for (const each of this.overlays) each.toggle(shown);
  }
}
