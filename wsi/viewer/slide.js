// A slide as OpenLayers sees it: its coordinates are pixels of the finest level, x to the right and y upwards from 0.

// A level is taken up to where its pixels are stretched over so many of the screen; a finer one costs more tiles.
const STRETCH = 1.25;
const DENSEST = 2; // pixels of the screen for one of CSS that get pixels of their own
const SERVER = new URL('../../', import.meta.url);

/** The URL of a resource of this server. The manifest's own are for others: they may name another host than this page. */
export function resource(path, parameters = {}) {
  const url = new URL(path, SERVER);
  for (const [name, value] of Object.entries(parameters)) if (value !== undefined) url.searchParams.set(name, value);
  return url.href;
}

export class Slide {
  constructor(manifest) {
    this.manifest = manifest;
    this.width = manifest.width;
    this.height = manifest.height;
    this.extent = [0, -manifest.height, manifest.width, 0];
    // OpenLayers counts from the coarsest level.
    this.levels = [...manifest.levels].reverse();
    this.projection = new ol.proj.Projection({ code: 'slide', units: 'pixels', extent: this.extent });
    this.grid = this.gridOf(this.levels);
  }

  /** The tiles of some levels, which are in the order of `levels`. */
  gridOf(levels) {
    const grid = new ol.tilegrid.TileGrid({
      extent: this.extent,
      origin: [0, 0],
      // Sizes of levels are rounded to whole pixels: the larger ratio leaves no edge uncovered.
      resolutions: levels.map((level) => Math.max(this.width / level.width, this.height / level.height)),
      sizes: levels.map((level) => [level.columns, level.rows]),
      tileSizes: levels.map((level) => [level.tile_width, level.tile_height]),
    });
    // OpenLayers would take the nearest level, and not think of dense screens: this is the coarsest that is sharp enough.
    grid.getZForResolution = (resolution) => {
      const wanted = (resolution / Math.min(DENSEST, devicePixelRatio)) * STRETCH;
      const found = grid.getResolutions().findIndex((each) => each <= wanted);
      return found < 0 ? levels.length - 1 : found;
    };
    return grid;
  }

  /** Fetch the manifest of a series. Throws an Error with the server's own words. */
  static async open(series) {
    const answer = await fetch(resource(`wsi/slides/${encodeURIComponent(series)}`));
    if (!answer.ok) throw new Error(await dicom.problem(answer));
    return new Slide(await answer.json());
  }

  /** A resource of this slide in the version that the manifest describes. */
  url(path, parameters = {}) {
    return resource(`wsi/slides/${this.manifest.series}/${path}`, { v: this.manifest.version, ...parameters });
  }

  /** A source of the tiles of one picture, with the parameters that the server takes; `path` is where they are. */
  source(parameters, { path = 'tiles', levels = this.levels, ...options } = {}) {
    return new ol.source.TileImage({
      projection: this.projection,
      tileGrid: levels === this.levels ? this.grid : this.gridOf(levels),
      transition: matchMedia('(prefers-reduced-motion: reduce)').matches ? 0 : 150,
      tileUrlFunction: this.addresses(parameters, path, levels),
      ...options,
    });
  }

  /** What gives the addresses of the tiles of such a picture. */
  addresses(parameters, path = 'tiles', levels = this.levels) {
    return ([z, x, y]) => this.url(`${path}/${levels[z].level}/${x}/${y}`, parameters);
  }

  /** Micrometres of a pixel of the finest level, across and down, or null. */
  get mpp() {
    return this.manifest.mpp;
  }

  /** The magnification of an objective that shows one pixel of the finest level as one of the screen, or null. */
  get power() {
    return this.manifest.objective_power ?? (this.mpp && 10 / this.mpp[0]);
  }
}
