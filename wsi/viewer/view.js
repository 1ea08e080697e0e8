// The view: zoom, rotation, keys, what is read from it (scale, magnification, position), overview and address.
import * as address from './address.js';
import { length, round125 } from './units.js';

const FINEST = 1 / 8; // of a pixel of the slide for one of the screen
const BAR = 140; // pixels, at most
const TURN = Math.PI / 12;
const OVERVIEW = 180;
const $ = (id) => document.getElementById(id);

/** The view of a slide, as the address has it, else the whole. */
export function makeView(slide) {
  const coarsest = Math.max(slide.width, slide.height) / 64;
  return new ol.View({
    projection: slide.projection,
    extent: slide.extent,
    constrainOnlyCenter: true,
    constrainRotation: false,
    showFullExtent: true,
    minResolution: FINEST,
    maxResolution: Math.max(coarsest, 1),
    center: ol.extent.getCenter(slide.extent),
    resolution: coarsest,
  });
}

export function showWhole(map, slide, duration = 0) {
  map.getView().fit(slide.extent, { padding: [16, 16, 16, 16], duration });
}

/** Show what the address says; what it leaves out stays the whole slide. */
export function showAddressed(map, slide) {
  const view = map.getView();
  view.setRotation(((address.number('rotation') ?? 0) * Math.PI) / 180);
  const [x, y, downsample] = ['x', 'y', 'downsample'].map(address.number);
  if (x === undefined || y === undefined || !(downsample > 0)) {
    showWhole(map, slide);
  } else {
    view.setResolution(downsample);
    view.setCenter([x, -y]);
  }
}

function keep(view) {
  const [x, y] = view.getCenter();
  const degrees = Math.round((view.getRotation() * 1800) / Math.PI) / 10;
  address.put({
    x: x.toFixed(1),
    y: (-y).toFixed(1),
    downsample: Number(view.getResolution().toPrecision(5)),
    rotation: degrees % 360 ? degrees : undefined,
  });
}

/** Buttons and keys; `keys` are further ones, functions by their names in lower case. */
export function bind(map, slide, keys) {
  const view = map.getView();
  const quick = matchMedia('(prefers-reduced-motion: reduce)').matches ? 0 : 200;
  const zoom = (factor) => view.animate({ resolution: view.getConstrainedResolution(view.getResolution() * factor), duration: quick });
  const turn = (angle) => view.animate({ rotation: view.getRotation() + angle, duration: quick });
  const actions = {
    '+': () => zoom(0.5),
    '=': () => zoom(0.5),
    '-': () => zoom(2),
    0: () => showWhole(map, slide, quick),
    1: () => view.animate({ resolution: 1, duration: quick }),
    '[': () => turn(-TURN),
    ']': () => turn(TURN),
    u: () => view.animate({ rotation: 0, duration: quick }),
    ...keys,
  };
  $('zoom-in').addEventListener('click', actions['+']);
  $('zoom-out').addEventListener('click', actions['-']);
  $('fit').addEventListener('click', actions[0]);
  $('turn-left').addEventListener('click', actions['[']);
  $('turn-right').addEventListener('click', actions[']']);
  $('upright').addEventListener('click', actions.u);
  $('map').addEventListener('keydown', (event) => {
    const action = actions[event.key.toLowerCase()];
    if (!action || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    action();
  });
  map.on('moveend', () => keep(view));
  map.on('postrender', () => read(map, slide));
  map.on('pointermove', (event) => point(slide, event.coordinate));
  address.whenChanged(() => showAddressed(map, slide));
}

function read(map, slide) {
  const view = map.getView();
  const resolution = view.getResolution();
  $('upright').hidden = !view.getRotation();
  $('upright').firstElementChild.style.transform = `rotate(${view.getRotation()}rad)`;
  const microns = slide.mpp?.[0];
  const unit = (microns ?? 1) * resolution;
  const bar = round125(BAR * unit);
  $('scale-bar').style.width = `${bar / unit}px`;
  $('scale-text').textContent = microns ? length(bar) : `${bar} pixels`;
  const parts = [];
  if (slide.power) parts.push(`${(slide.power / resolution).toPrecision(3)}×`);
  if (microns) parts.push(`${unit.toPrecision(3)} µm/pixel`);
  else parts.push(`1 : ${resolution.toPrecision(3)}`);
  $('magnification').textContent = parts.join(' · ');
}

function point(slide, [x, y]) {
  const inside = x >= 0 && x < slide.width && y <= 0 && -y < slide.height;
  const place = `${Math.floor(x)}, ${Math.floor(-y)}`;
  const millimetres = slide.mpp && `${((x * slide.mpp[0]) / 1000).toFixed(3)}, ${((-y * slide.mpp[1]) / 1000).toFixed(3)} mm`;
  $('position').textContent = inside ? [place, millimetres].filter(Boolean).join(' · ') : '';
}

/** A small picture of the whole with a frame around what is seen; a click or drag in it moves the view. */
export function overview(map, slide) {
  const box = $('overview');
  const [image, drawing, frame] = ['img', 'svg', 'polygon'].map((name) => box.querySelector(name));
  const scale = Math.min(OVERVIEW, innerWidth * 0.3, innerHeight * 0.3) / Math.max(slide.width, slide.height);
  const size = [slide.width, slide.height].map((side) => Math.max(1, Math.round(side * scale)));
  [box.style.width, box.style.height] = size.map((side) => `${side}px`);
  drawing.setAttribute('viewBox', `0 0 ${slide.width} ${slide.height}`);
  drawing.setAttribute('preserveAspectRatio', 'none');
  const ratio = Math.min(2, Math.ceil(devicePixelRatio));
  image.src = slide.url('thumbnail', { width: size[0] * ratio, height: size[1] * ratio });
  box.hidden = false;
  map.on('postrender', () => {
    const [width, height] = map.getSize();
    const corners = [[0, 0], [width, 0], [width, height], [0, height]].map((corner) => map.getCoordinateFromPixel(corner));
    if (corners.every(Boolean)) frame.setAttribute('points', corners.map(([x, y]) => `${x},${-y}`).join(' '));
  });
  const move = (event) => {
    const { left, top, width, height } = box.getBoundingClientRect();
    const [x, y] = [(event.clientX - left) / width, (event.clientY - top) / height];
    map.getView().setCenter([x * slide.width, -y * slide.height]);
  };
  box.addEventListener('pointerdown', (event) => {
    event.preventDefault();
    box.setPointerCapture(event.pointerId);
    move(event);
  });
  box.addEventListener('pointermove', (event) => {
    if (box.hasPointerCapture(event.pointerId)) move(event);
  });
}
