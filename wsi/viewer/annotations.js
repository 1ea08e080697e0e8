// Bulk annotations: up to millions of shapes, of which the server gives those that are seen, tile by tile.
import { row, section, swatch } from './panel.js';

const TILE = 512;
const OPACITY = 0.85;
const PALETTE = ['#00c2a8', '#ff5d5d', '#5d8bff', '#ffb52e', '#c46bff', '#8fd14f'];

/** One group of annotations as a layer. */
function layerOf(slide, group, colour, tell) {
  const grid = new ol.tilegrid.TileGrid({
    extent: slide.extent,
    origin: [0, 0],
    resolutions: slide.grid.getResolutions(),
    tileSize: TILE,
  });
  const source = new ol.source.VectorTile({
    projection: slide.projection,
    tileGrid: grid,
    // What a tile loads is made from its place; OpenLayers asks for some address of it.
    tileUrlFunction: (place) => place.join('/'),
    tileLoadFunction: (tile) => tile.setLoader((extent) => load(tile, extent)),
  });

  async function load(tile, [left, bottom, right, top]) {
    const { level } = slide.levels[tile.getTileCoord()[0]];
    const bbox = [left, -top, right, -bottom].join(',');
    const parameters = { bbox, level, v: group.version };
    try {
      const answer = await fetch(slide.url(`annotations/${group.instance}/${group.number}`, parameters));
      if (!answer.ok) throw new Error(await dicom.problem(answer));
      tile.setFeatures(features(await answer.json(), left, top, group.shape));
    } catch (error) {
      tile.setState(3); // OpenLayers' TileState.ERROR
      tell(error.message, true);
    }
  }

  const layer = new ol.layer.VectorTile({ source, zIndex: 20, style: styler(colour) });
  layer.set('colour', colour);
  return layer;
}

/** What the server gives for a tile, as features in the coordinates of the slide. */
function features({ unit, square, lengths, points, squares }, left, top, shape) {
  const open = shape === 'polyline';
  const found = [];
  let [at, x, y] = [0, left, top];
  for (const length of lengths) {
    const flat = [];
    for (const end = at + 2 * length; at < end; at += 2) {
      x += points[at] * unit;
      y -= points[at + 1] * unit;
      flat.push(x, y);
    }
    if (!open) flat.push(flat[0], flat[1]);
    found.push(new ol.render.Feature(open ? 'LineString' : 'Polygon', flat, open ? [] : [flat.length], 2, {}, undefined));
  }
  for (let index = 0; index < squares.length; index += 3) {
    const [middle, center, half] = [left + squares[index] * unit, top - squares[index + 1] * unit, square / 2];
    const [west, south, east, north] = [middle - half, center - half, middle + half, center + half];
    const flat = [west, south, east, south, east, north, west, north, west, south];
    const properties = { count: squares[index + 2], points: shape === 'point' };
    found.push(new ol.render.Feature('Polygon', flat, [flat.length], 2, properties, undefined));
  }
  return found;
}

function styler(colour) {
  const outline = new ol.style.Style({
    stroke: new ol.style.Stroke({ color: colour, width: 1.5 }),
    fill: new ol.style.Fill({ color: `${colour}26` }),
  });
  const filled = (opacity) => new ol.style.Style({ fill: new ol.style.Fill({ color: colour + opacity }) });
  const densities = ['66', '99', 'cc', 'ff'].map(filled);
  return (feature) => {
    const count = feature.get('count');
    if (!count) return outline;
    return densities[feature.get('points') ? 3 : Math.min(3, Math.floor(Math.log2(count)))];
  };
}

/** All groups as layers, and the panel's section: a switch for each, and their opacity. */
export class Annotations {
  constructor(map, slide, tell) {
    this.map = map;
    this.slide = slide;
    this.tell = tell;
    this.layers = new Map();
    this.opacity = OPACITY;
  }

  controls() {
    const opacity = dicom.element('input', { type: 'range', min: 0, max: 1, step: 0.05, value: OPACITY });
    opacity.addEventListener('input', () => {
      this.opacity = Number(opacity.value);
      for (const layer of this.layers.values()) layer.setOpacity(this.opacity);
    });
    this.list = dicom.element('fieldset', {});
    this.section = section('Annotations', true, this.list, row('Opacity', opacity));
    this.section.hidden = true;
    return this.section;
  }

  /** Show these groups, and no others. Those that were there before stay as they are. */
  show(groups) {
    const before = this.layers;
    this.layers = new Map();
    this.list.replaceChildren(...groups.map((group, index) => this.item(group, index, before)));
    for (const [key, layer] of before) if (!this.layers.has(key)) this.map.removeLayer(layer);
    this.section.hidden = !groups.length;
  }

  item(group, index, before) {
    const key = `${group.instance}/${group.number}/${group.version}`;
    let layer = before.get(key);
    if (!layer) {
      layer = layerOf(this.slide, group, group.colour ?? PALETTE[index % PALETTE.length], this.tell);
      layer.setOpacity(this.opacity);
      this.map.addLayer(layer);
    }
    this.layers.set(key, layer);
    const shown = dicom.element('input', { type: 'checkbox', ...(layer.getVisible() && { checked: '' }) });
    shown.addEventListener('change', () => layer.setVisible(shown.checked));
    const name = group.label || group.type || `Group ${group.number}`;
    const text = dicom.element('span', {}, `${name} (${group.count.toLocaleString('en')})`);
    return dicom.element('label', { class: 'row' }, shown, swatch(layer.get('colour')), text);
  }
}
