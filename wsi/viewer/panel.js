// Parts of the panel: what is known of the slide, label and overview images.

/** A section that can be folded. */
export function section(name, open, ...children) {
  return dicom.element('details', open ? { open: '' } : {}, dicom.element('summary', {}, name), ...children);
}

/** A labelled control in one line. */
export function row(text, ...controls) {
  return dicom.element('label', { class: 'row' }, dicom.element('span', {}, text), ...controls);
}

/** A small field of a colour. */
export function swatch(colour) {
  const made = dicom.element('span', { class: 'swatch' });
  made.style.background = colour;
  return made;
}

/** Size, resolution, objective, levels. */
export function facts(slide) {
  const { manifest, mpp } = slide;
  const known = [
    ['Size', `${slide.width.toLocaleString('en')} × ${slide.height.toLocaleString('en')} pixels`],
    mpp && ['Extent', `${((slide.width * mpp[0]) / 1000).toFixed(2)} × ${((slide.height * mpp[1]) / 1000).toFixed(2)} mm`],
    mpp && ['Resolution', `${Number(mpp[0].toPrecision(4))} µm/pixel`],
    manifest.objective_power && ['Objective', `${manifest.objective_power}×`],
    ['Levels', String(manifest.levels.filter((level) => level.stored).length)],
  ].filter(Boolean);
  const list = known.flatMap(([name, value]) => [dicom.element('dt', {}, name), dicom.element('dd', {}, value)]);
  return section('Slide', true, dicom.element('dl', {}, ...list));
}

/** Label and overview image of the glass. */
export async function images(slide) {
  const { study, series, images: found } = slide.manifest;
  const root = await dicom.root();
  const figures = [['label', 'Label'], ['overview', 'Overview']].filter(([name]) => found[name]).map(([name, caption]) => {
    const url = new URL(`${root}/studies/${study}/series/${series}/instances/${found[name].instance}/rendered`);
    url.search = new URL(found[name].url).search;
    const image = dicom.element('img', { alt: `${caption} image of the slide`, src: url.href });
    return dicom.element('figure', { 'data-image': name }, image, dicom.element('figcaption', {}, caption));
  });
  return figures.length ? [section('Label and overview', true, ...figures)] : [];
}
