// A whole slide in OpenLayers: each instance of the series is a level, each tile one frame fetched by WADO-RS.
'use strict';

const TAG = {
  imageType: '00080008', modality: '00080060', sop: '00080018', study: '0020000D', description: '0008103E', patient: '00100010',
  organization: '00209311', frames: '00280008', rows: '00280010', columns: '00280011', width: '00480006', height: '00480007',
  optical: '00480105', planes: '00480303',
};
const status = document.getElementById('status');
const series = location.pathname.split('/').filter(Boolean).pop();

function fail(text) {
  status.textContent = text;
  status.classList.add('problem');
}

/** The instance as a pyramid level, or null where it is none (label, overview, no regular grid). */
function level(instance, root) {
  const number = (tag) => Number(dicom.value(instance, tag) || 0);
  const [width, height, columns, rows] = [TAG.width, TAG.height, TAG.columns, TAG.rows].map(number);
  const kind = dicom.values(instance, TAG.imageType)[2];
  if (!width || !height || !columns || !rows || kind === 'LABEL' || kind === 'OVERVIEW') return null;
  const across = Math.ceil(width / columns);
  const down = Math.ceil(height / rows);
  // TILED_FULL fixes where a frame lies; an image of a single tile needs no such word.
  if (dicom.value(instance, TAG.organization) !== 'TILED_FULL' && across * down !== 1) return null;
  const url = `${root}/studies/${dicom.value(instance, TAG.study)}/series/${series}/instances/${dicom.value(instance, TAG.sop)}`;
  return { width, height, columns, rows, across, down, frames: number(TAG.frames) || 1, url };
}

/** The levels from the smallest to the largest; of several with one width (focal planes, optical paths) the first. */
function pyramid(instances, root) {
  const widths = new Map();
  for (const found of instances.map((instance) => level(instance, root)).filter(Boolean)) {
    if (!widths.has(found.width)) widths.set(found.width, found);
  }
  return [...widths.values()].sort((a, b) => a.width - b.width);
}

function fetchTile(tile, url) {
  fetch(url, { headers: { Accept: 'image/jpeg' } })
    .then(async (answer) => {
      if (!answer.ok) throw new Error(await dicom.problem(answer));
      return answer.blob();
    })
    .then((blob) => {
      const image = tile.getImage();
      const address = URL.createObjectURL(blob);
      image.addEventListener('load', () => URL.revokeObjectURL(address), { once: true });
      image.addEventListener('error', () => fail('A tile cannot be shown: browsers decode baseline JPEG only.'), { once: true });
      image.src = address;
    })
    .catch((error) => {
      tile.setState(3); // OpenLayers' TileState.ERROR
      fail(error.message);
    });
}

function draw(levels) {
  const base = levels[levels.length - 1];
  const extent = [0, -base.height, base.width, 0];
  const grid = new ol.tilegrid.TileGrid({
    extent,
    origin: [0, 0],
    resolutions: levels.map((each) => base.width / each.width),
    sizes: levels.map((each) => [each.across, each.down]),
    tileSizes: levels.map((each) => [each.columns, each.rows]),
  });
  const projection = new ol.proj.Projection({ code: 'slide', units: 'pixels', extent });
  const source = new ol.source.TileImage({
    projection,
    tileGrid: grid,
    tileLoadFunction: fetchTile,
    tileUrlFunction: ([z, x, y]) => `${levels[z].url}/frames/${y * levels[z].across + x + 1}`,
  });
  const map = new ol.Map({
    target: 'map',
    layers: [new ol.layer.Tile({ source, extent })],
    view: new ol.View({ projection, extent, showFullExtent: true, constrainOnlyCenter: true, minResolution: 0.25, maxResolution: Math.max(base.width, base.height) / 64 }),
  });
  map.getView().fit(extent, { padding: [20, 20, 20, 20] });
  map.once('rendercomplete', () => document.body.setAttribute('data-ready', 'true'));
  window.slide = { map, source, levels };
}

async function start() {
  if (typeof ol === 'undefined') {
    fail('OpenLayers is not installed on this server: "python -m wsi.viewer" installs it where npm is at hand.');
    return;
  }
  const [found] = await dicom.fetch(`/series?SeriesInstanceUID=${encodeURIComponent(series)}&includefield=0020000D,0008103E`);
  if (!found) {
    fail('There is no such series.');
    return;
  }
  const root = await dicom.root();
  const study = dicom.value(found, TAG.study);
  const instances = await dicom.fetch(`/studies/${study}/series/${series}/metadata`);
  const levels = pyramid(instances, root);
  const title = [dicom.name(instances[0], TAG.patient), dicom.text(found, TAG.description)].filter(Boolean).join(' · ');
  document.getElementById('title').textContent = title;
  if (!levels.length) {
    fail('The series holds no image that is tiled in full (TILED_FULL).');
    return;
  }
  const base = levels[levels.length - 1];
  status.textContent = `${base.width} × ${base.height} pixels, ${levels.length} level${levels.length === 1 ? '' : 's'}`;
  draw(levels);
}

start().catch((error) => fail(error.message));
