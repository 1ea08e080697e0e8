// Lengths and areas that are drawn on the slide: kept in the page until they are saved, as a structured report (SR) or as
// bulk annotations (ANN); and the measurements of all reports.
import { area, length } from './units.js';
import { resource } from './slide.js';
import { row, section, swatch } from './panel.js';

const KINDS = {
  LineString: { name: 'Length', shape: 'polyline', button: 'measure-length' },
  Polygon: { name: 'Area', shape: 'polygon', button: 'measure-area' },
};
const DRAWN = '#ffd23f';
const SAVED = '#37c2f0';

/** A value of a report: lengths and areas in the units of this page, others in their own. */
function worded({ name, value, unit }) {
  const scale = { mm: 1000, um: 1, cm: 10000 }[unit];
  if (scale) return length(value * scale);
  const square = { mm2: 1e6, um2: 1, cm2: 1e8 }[unit];
  if (square) return area(value * square);
  return `${name} ${Number(value.toPrecision(4))} ${unit === '1' ? '' : unit}`.trim();
}

/** An ellipse as a closed line: its points are the ends of the major and of the minor axis. */
function around([left, right, top, bottom]) {
  const [x, y] = [0, 1].map((axis) => (left[axis] + right[axis]) / 2);
  return Array.from({ length: 65 }, (_, step) => {
    const [along, across] = [Math.cos((step * Math.PI) / 32) / 2, Math.sin((step * Math.PI) / 32) / 2];
    return [x + along * (right[0] - left[0]) + across * (bottom[0] - top[0]), y + along * (right[1] - left[1]) + across * (bottom[1] - top[1])];
  });
}

export class Measurements {
  /** `stored` is called with all that is stored, after something was saved. */
  constructor(map, slide, tell, stored) {
    this.map = map;
    this.slide = slide;
    this.tell = tell;
    this.stored = stored;
    this.key = `anor-measurements-${slide.manifest.series}`;
    this.source = new ol.source.Vector();
    this.layer = new ol.layer.Vector({ source: this.source, zIndex: 30, style: (feature) => this.style(feature) });
    this.drawing = null;
    map.addLayer(this.layer);
    const modify = new ol.interaction.Modify({ source: this.source, filter: (feature) => !feature.get('saved') });
    modify.on('modifyend', () => this.changed());
    map.addInteraction(modify);
    this.source.on('addfeature', () => this.list && this.changed());
    const kept = JSON.parse(sessionStorage.getItem(this.key) ?? '[]');
    this.source.addFeatures(kept.map((each) => this.feature(each, false)));
  }

  get drawn() {
    return this.source.getFeatures().filter((feature) => !feature.get('saved'));
  }

  /** Lines with a dark edge, so that they are seen on every slide, with what they measure. */
  style(feature) {
    const geometry = feature.getGeometry();
    const colour = feature.get('saved') ? SAVED : DRAWN;
    const polygon = geometry.getType() === 'Polygon';
    return [
      new ol.style.Style({ stroke: new ol.style.Stroke({ color: '#000c', width: 5 }) }),
      new ol.style.Style({
        stroke: new ol.style.Stroke({ color: colour, width: 2.5 }),
        fill: new ol.style.Fill({ color: `${colour}22` }),
        image: new ol.style.Circle({
          radius: 4,
          fill: new ol.style.Fill({ color: colour }),
          stroke: new ol.style.Stroke({ color: '#000' }),
        }),
        text: new ol.style.Text({
          text: this.value(feature),
          font: '600 14px system-ui, sans-serif',
          fill: new ol.style.Fill({ color: '#fff' }),
          stroke: new ol.style.Stroke({ color: '#000', width: 4 }),
          overflow: true,
          offsetY: polygon ? 0 : -14,
        }),
      }),
    ];
  }

  /** What a feature measures: what its report says, or what is drawn. */
  value(feature) {
    return feature.get('values') || this.measure(feature.getGeometry());
  }

  /** What a line or polygon measures, as text. */
  measure(geometry) {
    const [across, down] = this.slide.mpp ?? [1, 1];
    const scaled = geometry.clone();
    scaled.scale(across, down, [0, 0]);
    switch (geometry.getType()) {
      case 'LineString':
        return this.slide.mpp ? length(scaled.getLength()) : `${Math.round(scaled.getLength())} pixels`;
      case 'Polygon':
        return this.slide.mpp ? area(scaled.getArea()) : `${Math.round(scaled.getArea())} pixels²`;
      default:
        return '';
    }
  }

  /** Begin to draw a length or an area, or end it. */
  toggle(kind) {
    const same = this.drawing?.get('kind') === kind;
    this.end();
    if (same) return;
    const { name } = KINDS[kind];
    this.drawing = new ol.interaction.Draw({ source: this.source, type: kind, style: (feature) => this.style(feature) });
    this.drawing.set('kind', kind);
    this.drawing.on('drawend', ({ feature }) => {
      const before = this.source.getFeatures().filter((each) => each.get('name')?.startsWith(name)).length;
      feature.set('name', `${name} ${before + 1}`);
    });
    this.map.addInteraction(this.drawing);
    document.getElementById('map').classList.add('measuring');
    this.tell(`${name}: click or tap the points, twice the last one. Esc or the button ends.`);
    this.press();
  }

  end() {
    if (!this.drawing) return;
    this.map.removeInteraction(this.drawing);
    this.drawing = null;
    document.getElementById('map').classList.remove('measuring');
    this.tell('');
    this.press();
  }

  press() {
    for (const [kind, { button }] of Object.entries(KINDS)) {
      document.getElementById(button).setAttribute('aria-pressed', String(this.drawing?.get('kind') === kind));
    }
  }

  controls() {
    const buttons = Object.entries(KINDS).map(([kind, { name, button }]) => {
      const made = dicom.element('button', { type: 'button', id: button, 'aria-pressed': 'false' }, name);
      made.addEventListener('click', () => this.toggle(kind));
      return made;
    });
    this.form = dicom.element('select', { id: 'measure-form', 'aria-label': 'Save as' });
    this.form.append(
      dicom.element('option', { value: 'SR' }, 'Report (SR)'),
      dicom.element('option', { value: 'ANN' }, 'Annotations (ANN)'),
    );
    if (!this.slide.mpp) this.form.value = 'ANN';
    this.form.addEventListener('change', () => this.changed());
    this.label = dicom.element('input', { id: 'measure-label', maxlength: 64, value: 'Annotations' });
    this.labelRow = row('Label', this.label);
    this.saveButton = dicom.element('button', { type: 'button', id: 'measure-save' }, 'Save');
    this.saveButton.addEventListener('click', () => this.save().catch((error) => this.tell(error.message, true)));
    this.list = dicom.element('ul', { id: 'measurements' });
    this.note = dicom.element('p', { class: 'note' }, 'Not saved yet: only this page knows them.');
    const tools = dicom.element('div', { class: 'buttons' }, ...buttons);
    this.saving = dicom.element('fieldset', {}, row('Save as', this.form), this.labelRow, this.saveButton, this.note);
    this.changed();
    return section('Measurements', true, tools, this.list, this.saving);
  }

  /** The list and what is kept, after something was drawn, moved, removed or read. What is drawn outlives a reload. */
  changed() {
    const drawn = this.drawn;
    if (drawn.length) sessionStorage.setItem(this.key, JSON.stringify(drawn.map((feature) => this.plain(feature))));
    else sessionStorage.removeItem(this.key);
    this.list.replaceChildren(...this.source.getFeatures().map((feature) => this.item(feature)));
    this.saving.hidden = !drawn.length;
    this.labelRow.hidden = this.form.value !== 'ANN';
    this.saveButton.disabled = !drawn.length || (!this.slide.mpp && this.form.value === 'SR');
  }

  item(feature) {
    const name = feature.get('name');
    const label = [name, this.value(feature)].filter(Boolean).join(': ');
    const shown = dicom.element('button', { type: 'button', class: 'link', title: feature.get('finding') || 'Show' }, label);
    shown.addEventListener('click', () => {
      this.map.getView().fit(feature.getGeometry(), { padding: [80, 80, 80, 80], minResolution: 0.5 });
    });
    const item = dicom.element('li', {}, swatch(feature.get('saved') ? SAVED : DRAWN), shown);
    if (!feature.get('saved')) {
      const attributes = { type: 'button', class: 'remove', 'aria-label': `Remove ${name}`, title: 'Remove' };
      const remove = dicom.element('button', attributes, '×');
      remove.addEventListener('click', () => {
        this.source.removeFeature(feature);
        this.changed();
      });
      item.append(remove);
    }
    return item;
  }

  /** As the server takes it: pixels of the finest level, y downwards; a polygon without its first point again. */
  plain(feature) {
    const geometry = feature.getGeometry();
    const line = geometry.getType() === 'LineString';
    const points = line ? geometry.getCoordinates() : geometry.getCoordinates()[0].slice(0, -1);
    return {
      name: feature.get('name'),
      shape: KINDS[geometry.getType()].shape,
      points: points.map(([x, y]) => [x, -y]),
    };
  }

  feature({ name, shape, points, finding, values }, saved) {
    const turned = points.map(([x, y]) => [x, -y]);
    const geometry = {
      polyline: () => new ol.geom.LineString(turned),
      polygon: () => new ol.geom.Polygon([[...turned, ...(saved ? [] : [turned[0]])]]),
      ellipse: () => new ol.geom.Polygon([around(turned)]),
    }[shape]?.() ?? new ol.geom.MultiPoint(turned);
    return new ol.Feature({ geometry, name: name || finding || shape, finding, values: values?.map(worded).join(', '), saved });
  }

  /** Put the measurements of all reports in the place of those that were read before. */
  show(measurements) {
    this.source.removeFeatures(this.source.getFeatures().filter((feature) => feature.get('saved')));
    this.source.addFeatures(measurements.map((each) => this.feature(each, true)));
    this.changed();
  }

  url() {
    return resource(`wsi/slides/${this.slide.manifest.series}/annotations`);
  }

  /** All that was drawn on this slide and is stored. */
  async read() {
    const answer = await fetch(this.url());
    if (!answer.ok) throw new Error(await dicom.problem(answer));
    return answer.json();
  }

  async save() {
    this.end();
    const drawn = this.drawn;
    this.saveButton.disabled = true;
    try {
      const modality = this.form.value;
      const shapes = drawn.map((feature) => this.plain(feature));
      const name = this.label.value.trim() || 'Annotations';
      const measurements = modality === 'ANN' ? shapes.map((shape) => ({ ...shape, name })) : shapes;
      const body = JSON.stringify({ modality, measurements });
      const answer = await fetch(this.url(), { method: 'POST', headers: { 'Content-Type': 'application/json' }, body });
      if (!answer.ok) throw new Error(await dicom.problem(answer));
      this.source.removeFeatures(drawn);
      this.stored(await this.read());
      this.tell(drawn.length === 1 ? 'One measurement is saved.' : `${drawn.length} measurements are saved.`);
    } finally {
      this.changed();
    }
  }
}
