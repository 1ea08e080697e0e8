// The list of studies: QIDO-RS searches, one page at a time.
'use strict';

const PAGE = 25;
const form = document.getElementById('search');
const results = document.getElementById('results');
const body = results.querySelector('tbody');
const status = document.getElementById('status');
const previous = document.getElementById('previous');
const next = document.getElementById('next');
const columns = results.querySelectorAll('thead tr > *');
// Series of these hold no pictures: nobody is asked for a thumbnail of them.
const WITHOUT_PICTURES = new Set(
  ['AU', 'DOC', 'ECG', 'HD', 'KO', 'PLAN', 'PR', 'REG', 'RTPLAN', 'RTRECORD', 'RTSTRUCT', 'SEG', 'SR'],
);
let offset = 0;
let running = 0;

function wildcard(text) {
  return /[*?]/.test(text) ? text : `*${text}*`;
}

/** What the search asks for. Names and descriptions match anywhere in them; an ID is a whole one, or has wildcards. */
function query() {
  const given = new FormData(form);
  const parameters = new URLSearchParams();
  const text = (name) => String(given.get(name) || '').trim();
  for (const name of ['PatientName', 'StudyDescription']) if (text(name)) parameters.set(name, wildcard(text(name)));
  if (text('PatientID')) parameters.set('PatientID', text('PatientID'));
  if (text('ModalitiesInStudy')) parameters.set('ModalitiesInStudy', text('ModalitiesInStudy'));
  const from = text('from').replaceAll('-', '');
  const to = text('to').replaceAll('-', '');
  if (from || to) parameters.set('StudyDate', `${from}-${to}`);
  return parameters;
}

async function search() {
  const ticket = ++running;
  const parameters = query();
  history.replaceState(null, '', `?${new URLSearchParams([...new FormData(form), ['offset', offset]])}`);
  parameters.set('includefield', '00081030');
  parameters.set('limit', PAGE + 1);
  parameters.set('offset', offset);
  status.textContent = 'Loading …';
  results.setAttribute('aria-busy', 'true');
  try {
    const found = await dicom.fetch(`/studies?${parameters}`);
    if (ticket === running) show(found);
  } catch (error) {
    if (ticket === running) {
      show([]);
      status.textContent = error.message;
    }
  } finally {
    if (ticket === running) results.removeAttribute('aria-busy');
  }
}

function show(studies) {
  const more = studies.length > PAGE;
  const shown = studies.slice(0, PAGE);
  body.replaceChildren(...shown.map(studyRow));
  status.textContent = shown.length ? `Studies ${offset + 1} to ${offset + shown.length}` : 'No studies found.';
  previous.disabled = offset === 0;
  next.disabled = !more;
  document.getElementById('page').textContent = `Page ${offset / PAGE + 1}`;
}

function studyRow(study) {
  const uid = dicom.value(study, '0020000D');
  const modalities = dicom.values(study, '00080061');
  const name = dicom.name(study, '00100010') || '(no name)';
  const button = dicom.element('button', { type: 'button', class: 'link', 'aria-expanded': 'false' }, name);
  const cells = [
    thumbnail(`/studies/${uid}`, modalities),
    button,
    dicom.text(study, '00100020'),
    dicom.date(study, '00080020'),
    dicom.text(study, '00080061'),
    dicom.text(study, '00081030'),
    dicom.text(study, '00201206'),
    dicom.text(study, '00201208'),
    viewerLink(uid, modalities, name),
  ].map((content, index) => cell(content, index, columns[index]));
  const row = dicom.element('tr', { 'data-study': uid }, ...cells);
  button.addEventListener('click', () => toggle(row, button, uid));
  return row;
}

function cell(content, index, column) {
  if (index === 1) return dicom.element('th', { scope: 'row' }, content);
  const label = column.querySelector('.hidden') ? '' : column.textContent;
  return dicom.element('td', { class: column.className, ...(label && { 'data-label': label }) }, content);
}

function hasPictures(modality) {
  return !WITHOUT_PICTURES.has(modality);
}

/** A picture of what `path` names, or a plain square: where there can be none, and where the server has none. */
function thumbnail(path, modalities) {
  const frame = dicom.element('span', { class: 'thumbnail' });
  if (!modalities.some(hasPictures)) return frame;
  const image = dicom.element('img', { alt: '', loading: 'lazy', width: 64, height: 64 });
  image.addEventListener('error', () => image.remove());
  frame.append(image);
  dicom.root().then((root) => image.setAttribute('src', `${root}${path}/thumbnail?missing=empty`));
  return frame;
}

/** A link that opens the study, or one series of it, in OHIF; nothing where OHIF is not installed. */
function viewerLink(study, modalities, name, series) {
  const frame = dicom.element('span');
  dicom.settings().then(({ ohif }) => {
    if (!ohif) return;
    const slides = modalities.includes('SM') && modalities.filter(hasPictures).every((each) => each === 'SM');
    const link = new URL(slides ? 'ohif/microscopy' : 'ohif/viewer', home);
    link.searchParams.set('StudyInstanceUIDs', study);
    if (series) link.searchParams.set('initialSeriesInstanceUID', series);
    frame.append(dicom.element('a', { class: 'open', href: link, 'aria-label': `Open ${name} in OHIF` }, 'Open'));
  });
  return frame;
}

async function toggle(row, button, uid) {
  const open = row.nextElementSibling?.classList.contains('series');
  button.setAttribute('aria-expanded', String(!open));
  if (open) {
    row.nextElementSibling.remove();
    return;
  }
  const list = dicom.element('td', { colspan: columns.length }, 'Loading …');
  row.after(dicom.element('tr', { class: 'series' }, list));
  try {
    const series = await dicom.fetch(`/studies/${uid}/series?includefield=0008103E,00200011`);
    const number = (each) => Number(dicom.value(each, '00200011') ?? Infinity);
    series.sort((one, other) => number(one) - number(other));
    list.replaceChildren(dicom.element('ul', {}, ...series.map((each) => seriesItem(uid, each))));
  } catch (error) {
    list.textContent = error.message;
  }
}

function seriesItem(study, series) {
  const uid = dicom.value(series, '0020000E');
  const modality = dicom.text(series, '00080060');
  const count = dicom.text(series, '00201209');
  const number = dicom.text(series, '00200011');
  const description = dicom.text(series, '0008103E') || '(no description)';
  const words = [modality, number && `no. ${number}`, `${count} instance${count === '1' ? '' : 's'}`].filter(Boolean).join(' · ');
  const links = dicom.element('span', { class: 'links' });
  // What OHIF shows by itself; the others it shows over the series that they refer to.
  if (hasPictures(modality) || modality === 'DOC') {
    links.append(viewerLink(study, [modality], `series ${number} ${description}`, uid));
  }
  if (modality === 'SM') links.append(dicom.element('a', { href: new URL(`wsi/viewer/?series=${uid}`, home) }, 'Open slide'));
  const texts = dicom.element('span', {}, dicom.element('strong', {}, description), dicom.element('span', {}, words), links);
  return dicom.element('li', {}, thumbnail(`/studies/${study}/series/${uid}`, [modality]), texts);
}

function restore() {
  const given = new URLSearchParams(location.search);
  for (const field of form.elements) if (field.name && given.has(field.name)) field.value = given.get(field.name);
  offset = Math.max(0, Math.floor(Number(given.get('offset') || 0) / PAGE) * PAGE) || 0;
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  offset = 0;
  search();
});
form.addEventListener('reset', () => {
  offset = 0;
  setTimeout(search);
});
previous.addEventListener('click', () => {
  offset = Math.max(0, offset - PAGE);
  search().then(() => results.focus());
});
next.addEventListener('click', () => {
  offset += PAGE;
  search().then(() => results.focus());
});
dicom.settings().then(({ ohif }) => {
  document.getElementById('without').hidden = ohif;
});
restore();
search();
