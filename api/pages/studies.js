// The list of studies: QIDO-RS searches, one page at a time.
'use strict';

const PAGE = 25;
const form = document.getElementById('search');
const results = document.getElementById('results');
const body = results.querySelector('tbody');
const status = document.getElementById('status');
const previous = document.getElementById('previous');
const next = document.getElementById('next');
const columns = results.querySelectorAll('thead th');
let offset = 0;
let running = 0;

function wildcard(text) {
  return /[*?]/.test(text) ? text : `*${text}*`;
}

function query() {
  const given = new FormData(form);
  const parameters = new URLSearchParams();
  const text = (name) => String(given.get(name) || '').trim();
  if (text('PatientName')) parameters.set('PatientName', wildcard(text('PatientName')));
  if (text('StudyDescription')) parameters.set('StudyDescription', wildcard(text('StudyDescription')));
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
    const [found, settings] = await Promise.all([dicom.fetch(`/studies?${parameters}`), dicom.settings()]);
    if (ticket === running) show(found, settings);
  } catch (error) {
    if (ticket === running) {
      show([], {});
      status.textContent = error.message;
    }
  } finally {
    if (ticket === running) results.removeAttribute('aria-busy');
  }
}

function show(studies, settings) {
  const more = studies.length > PAGE;
  const shown = studies.slice(0, PAGE);
  body.replaceChildren(...shown.map((study) => studyRow(study, settings)));
  status.textContent = shown.length ? `Studies ${offset + 1} to ${offset + shown.length}` : 'No studies found.';
  previous.disabled = offset === 0;
  next.disabled = !more;
  document.getElementById('page').textContent = `Page ${offset / PAGE + 1}`;
}

function studyRow(study, settings) {
  const uid = dicom.value(study, '0020000D');
  const who = dicom.name(study, '00100010') || '(no name)';
  const button = dicom.element('button', { type: 'button', class: 'link', 'aria-expanded': 'false' }, who);
  const cells = [
    thumbnail(`/studies/${uid}`, settings),
    button,
    dicom.text(study, '00100020'),
    dicom.date(study, '00080020'),
    dicom.text(study, '00080061'),
    dicom.text(study, '00081030'),
    dicom.text(study, '00201206'),
    dicom.text(study, '00201208'),
    viewer(uid, who, settings),
  ].map((content, index) =>
    index === 1
      ? dicom.element('th', { scope: 'row' }, content)
      : dicom.element('td', { 'data-label': columns[index].textContent }, content),
  );
  const row = dicom.element('tr', { 'data-study': uid }, ...cells);
  button.addEventListener('click', () => toggle(row, button, uid, settings));
  return row;
}

/** A small picture; an empty frame for what has none. */
function thumbnail(path, settings) {
  const source = new URL(`${settings.root.slice(1)}${path}/thumbnail?viewport=96,96`, home);
  const image = dicom.element('img', { class: 'thumbnail', src: source, alt: '', width: 48, height: 48, loading: 'lazy' });
  image.addEventListener('error', () => image.replaceWith(dicom.element('span', { class: 'thumbnail' })));
  return image;
}

function viewer(uid, who, settings) {
  if (!settings.ohif) return '';
  const address = new URL(`ohif/viewer?StudyInstanceUIDs=${uid}`, home);
  return dicom.element('a', { href: address, 'aria-label': `Open the study of ${who} in OHIF` }, 'OHIF');
}

async function toggle(row, button, uid, settings) {
  const open = row.nextElementSibling?.classList.contains('series');
  button.setAttribute('aria-expanded', String(!open));
  if (open) {
    row.nextElementSibling.remove();
    return;
  }
  const cell = dicom.element('td', { colspan: columns.length }, 'Loading …');
  row.after(dicom.element('tr', { class: 'series' }, cell));
  try {
    const series = await dicom.fetch(`/studies/${uid}/series?includefield=0008103E,00200011`);
    cell.replaceChildren(dicom.element('ul', {}, ...series.map((one) => seriesItem(uid, one, settings))));
  } catch (error) {
    cell.textContent = error.message;
  }
}

function seriesItem(study, series, settings) {
  const uid = dicom.value(series, '0020000E');
  const modality = dicom.text(series, '00080060');
  const count = dicom.text(series, '00201209');
  const number = dicom.text(series, '00200011');
  const words = [modality, number && `no. ${number}`, dicom.text(series, '0008103E'), `${count} instance${count === '1' ? '' : 's'}`];
  const item = dicom.element('li', {}, thumbnail(`/studies/${study}/series/${uid}`, settings), ' ', words.filter(Boolean).join(' · '));
  if (modality === 'SM') item.append(' ', dicom.element('a', { href: new URL(`slides/${uid}`, home) }, 'Open slide'));
  return item;
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
restore();
search();
