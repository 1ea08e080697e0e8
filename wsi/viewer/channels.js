// What of the slide is drawn: optical paths, focal plane, window of shades, colour profile. Shades of several paths are
// light that adds up.
import * as address from './address.js';
import { row, section } from './panel.js';

const PATIENCE = 250;

export class Channels {
  constructor(map, slide, fail) {
    const { optical_paths: paths, shades, focal_planes: planes } = slide.manifest;
    this.map = map;
    this.slide = slide;
    this.fail = fail;
    this.shades = shades;
    this.planes = planes.z_um;
    const wanted = address.number('focal');
    this.focal = Number.isInteger(wanted) && wanted >= 0 && wanted < this.planes.length ? wanted : planes.default;
    this.profiled = !shades && paths.some((path) => path.icc_profile);
    this.converts = this.profiled && address.text('icc') === 'srgb';
    this.adds = Boolean(shades) && paths.length > 1;
    const chosen = address.text('path')?.split('|') ?? [];
    const known = paths.some((path) => chosen.includes(path.identifier));
    this.edges = shades && (shades.window ?? [shades.low, shades.high]);
    this.channels = paths.map((path, index) => ({
      index,
      path,
      name: path.description || path.identifier || `Path ${index + 1}`,
      colour: path.colour ?? '#ffffff',
      shown: known ? chosen.includes(path.identifier) : this.adds || index === 0,
      window: shades && [...(path.window ?? this.edges)],
      layer: null,
    }));
    for (const channel of this.channels) this.draw(channel);
    if (this.adds) document.getElementById('map').style.background = '#000';
  }

  /** Show a channel as it is now. What is drawn stays until the tiles that take its place are there. */
  draw(channel) {
    if (!channel.layer) {
      channel.layer = new ol.layer.Tile({
        extent: this.slide.extent,
        // Each channel has a canvas of its own, which the browser adds to the others.
        className: this.adds ? `ol-layer channel channel-${channel.index}` : 'ol-layer',
        preload: 1,
        zIndex: 0,
      });
      this.map.addLayer(channel.layer);
    }
    channel.layer.setVisible(channel.shown);
    if (!channel.shown) return;
    const parameters = {
      path: this.channels.length > 1 ? channel.path.identifier : undefined,
      focal: this.planes.length > 1 ? this.focal : undefined,
      window: this.windowed(channel) ? windowText(channel.window) : undefined,
      iccprofile: this.converts ? 'srgb' : undefined,
    };
    let source = channel.layer.getSource();
    if (!source) {
      const tileLoadFunction = (tile, url) => this.load(tile, url, channel.colour);
      source = this.slide.source(parameters, { tileLoadFunction });
      source.on('tileloaderror', () => this.fail('A part of the slide cannot be read.'));
      channel.layer.setSource(source);
    }
    const key = JSON.stringify([parameters, channel.colour]);
    if (source.getKey() !== key) source.setTileUrlFunction(this.slide.addresses(parameters), key);
  }

  windowed(channel) {
    return this.shades && this.edges.some((edge, index) => edge !== channel.window[index]);
  }

  load(tile, url, colour) {
    const image = tile.getImage();
    if (this.adds) {
      image.addEventListener('load', () => tile.setImage(tinted(image, colour)), { once: true });
    }
    image.src = url;
  }

  /** Another focal plane, so many steps above. */
  focus(steps) {
    const next = Math.min(this.planes.length - 1, Math.max(0, this.focal + steps));
    if (next === this.focal) return;
    this.focal = next;
    address.put({ focal: next });
    for (const channel of this.channels) this.draw(channel);
    if (this.slider) {
      this.slider.value = next;
      this.slider.dispatchEvent(new Event('shown'));
    }
  }

  controls() {
    const parts = [];
    if (this.adds) parts.push(section('Channels', true, ...this.channels.map((channel) => this.channelControl(channel))));
    else if (this.channels.length > 1) parts.push(section('Optical path', true, this.pathControl()));
    else if (this.shades) parts.push(section('Shades', true, this.windowControl(this.channels[0])));
    if (this.profiled) parts.push(section('Colour', true, this.profileControl()));
    if (this.planes.length > 1) parts.push(section('Focal plane', true, this.focusControl()));
    return parts;
  }

  profileControl() {
    const switched = dicom.element('input', { type: 'checkbox', id: 'icc', ...(this.converts && { checked: '' }) });
    switched.addEventListener('change', () => {
      this.converts = switched.checked;
      address.put({ icc: this.converts ? 'srgb' : undefined });
      for (const channel of this.channels) this.draw(channel);
    });
    return dicom.element('label', { class: 'row' }, switched, dicom.element('span', {}, 'Correct by the ICC profile'));
  }

  keepPaths() {
    const shown = this.channels.filter((channel) => channel.shown).map((channel) => channel.path.identifier);
    address.put({ path: shown.join('|') });
  }

  channelControl(channel) {
    const shown = dicom.element('input', { type: 'checkbox', ...(channel.shown && { checked: '' }) });
    const colour = dicom.element('input', { type: 'color', value: channel.colour, 'aria-label': `Colour of ${channel.name}` });
    shown.addEventListener('change', () => {
      channel.shown = shown.checked;
      this.keepPaths();
      this.draw(channel);
    });
    colour.addEventListener('change', () => {
      channel.colour = colour.value;
      this.draw(channel);
    });
    const head = dicom.element('label', { class: 'row' }, shown, dicom.element('span', {}, channel.name), colour);
    return dicom.element('fieldset', { 'aria-label': channel.name }, head, this.windowControl(channel));
  }

  pathControl() {
    const select = dicom.element('select', { 'aria-label': 'Optical path' });
    this.channels.forEach((channel, index) => {
      select.append(dicom.element('option', { value: index, ...(channel.shown && { selected: '' }) }, channel.name));
    });
    select.addEventListener('change', () => {
      this.channels.forEach((channel, index) => {
        channel.shown = index === Number(select.value);
        this.draw(channel);
      });
      this.keepPaths();
    });
    return select;
  }

  windowControl(channel) {
    const { low, high } = this.shades;
    // Fine steps where most of the light is: little of 16 bits is ever used.
    const shade = (place) => low + (high - low) * place ** 3;
    const place = (value) => Math.cbrt((value - low) / (high - low));
    let timer = 0;
    const fields = ['Darkest', 'Brightest'].map((name, index) => {
      const label = `${name} shade of ${channel.name}`;
      const slider = dicom.element('input', { type: 'range', min: 0, max: 1, step: 0.001, value: place(channel.window[index]), 'aria-label': label });
      const shown = dicom.element('output', {}, Math.round(channel.window[index]));
      slider.addEventListener('input', () => {
        channel.window[index] = Math.round(shade(Number(slider.value)));
        shown.textContent = channel.window[index];
        slider.setAttribute('aria-valuetext', shown.textContent);
        clearTimeout(timer);
        timer = setTimeout(() => this.draw(channel), PATIENCE);
      });
      return row(name, slider, shown);
    });
    return dicom.element('div', {}, ...fields);
  }

  focusControl() {
    const slider = dicom.element('input', { type: 'range', min: 0, max: this.planes.length - 1, step: 1, value: this.focal, 'aria-label': 'Focal plane' });
    const shown = dicom.element('output', {});
    const tell = () => {
      shown.textContent = `${this.planes[this.focal]} µm`;
      slider.setAttribute('aria-valuetext', shown.textContent);
    };
    slider.addEventListener('input', () => {
      this.focus(Number(slider.value) - this.focal);
      tell();
    });
    slider.addEventListener('shown', tell);
    this.slider = slider;
    tell();
    return dicom.element('label', { class: 'row' }, slider, shown);
  }
}

/** Two shades as the server's window; it takes no width of nothing. */
function windowText([dark, bright]) {
  const width = Math.max(Math.abs(bright - dark), 1e-3);
  return `${(dark + bright) / 2},${width},linear-exact`;
}

function tinted(image, colour) {
  const canvas = document.createElement('canvas');
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  context.globalCompositeOperation = 'multiply';
  context.fillStyle = colour;
  context.fillRect(0, 0, canvas.width, canvas.height);
  return canvas;
}
