// The page: opens the series that the address names and puts the parts together.
import { bind, makeView, overview, showAddressed } from './view.js';
import { facts, images } from './panel.js';
import { Channels } from './channels.js';
import { Measurements } from './measure.js';
import { Slide } from './slide.js';
import { Annotations } from './annotations.js';
import { Segmentations } from './segmentations.js';

const status = document.getElementById('status');
const series = new URLSearchParams(location.search).get('series');

function tell(text, problem = false) {
  status.textContent = text;
  status.classList.toggle('problem', problem);
}

function fail(text) {
  tell(text, true);
}

function page() {
  const [toggle, panel, help] = ['panel-toggle', 'panel', 'help'].map((id) => document.getElementById(id));
  const show = (shown) => {
    panel.hidden = !shown;
    toggle.setAttribute('aria-expanded', String(shown));
  };
  show(!matchMedia('(max-width: 44rem)').matches);
  toggle.addEventListener('click', () => show(panel.hidden));
  document.getElementById('help-open').addEventListener('click', () => help.showModal());
  return panel;
}

async function title(identifiers) {
  const [found] = await dicom.fetch(`/series?SeriesInstanceUID=${encodeURIComponent(series)}&includefield=0008103E,00100010`);
  if (!found) return;
  const shown = [identifiers && dicom.name(found, '00100010'), dicom.text(found, '0008103E')].filter(Boolean).join(' · ');
  document.getElementById('title').textContent = shown;
  if (shown) document.title = `${shown} · Anor`;
}

async function start() {
  if (typeof ol === 'undefined') {
    throw new Error('OpenLayers is not installed on this server: "python -m wsi.openlayers" installs it where npm is at hand.');
  }
  if (!series) throw new Error('The address names no series: /wsi/viewer/?series=UID');
  const panel = page();
  const [slide, { identifiers }] = await Promise.all([Slide.open(series), dicom.settings()]);
  title(identifiers).catch(() => {}); // a slide without its title is still one
  const map = new ol.Map({
    target: 'map',
    controls: [],
    keyboardEventTarget: 'map',
    interactions: ol.interaction.defaults.defaults({ keyboard: true, zoomDuration: 200 }),
    view: makeView(slide),
  });
  document.getElementById('map').style.background = slide.manifest.background;
  const channels = new Channels(map, slide, fail);
  const annotations = new Annotations(map, slide, tell);
  const segmentations = new Segmentations(map, slide, tell);
  const show = (stored) => {
    measurements.show(stored.measurements);
    annotations.show(stored.groups);
  };
  const measurements = new Measurements(map, slide, tell, show);
  panel.append(facts(slide), ...channels.controls(), measurements.controls(), annotations.controls());
  if (identifiers) panel.append(...(await images(slide)));
  bind(map, slide, {
    ',': () => channels.focus(-1),
    '.': () => channels.focus(1),
    l: () => measurements.toggle('LineString'),
    a: () => measurements.toggle('Polygon'),
    s: () => segmentations.toggle(),
    escape: () => measurements.end(),
  });
  overview(map, slide);
  showAddressed(map, slide);
  map.once('rendercomplete', () => document.body.setAttribute('data-ready', 'true'));
  window.viewer = { map, slide, channels, measurements, segmentations };
  const { problems } = slide.manifest;
  tell(problems.length ? `Parts of this slide cannot be shown: ${problems.map((each) => each.detail).join('; ')}` : '');
  const [stored, overlays] = await Promise.all([measurements.read(), segmentations.open()]);
  show(stored);
  annotations.section.after(...overlays);
  document.body.setAttribute('data-annotated', 'true');
}

start().catch((error) => fail(error.message));
