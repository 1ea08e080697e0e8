// Reading the DICOM JSON model (PS3.18 F), and DOM building that can only ever make text of what a dataset holds.
'use strict';

// Where the server's pages begin: it may stand behind a proxy below a path of its own.
const home = new URL('..', document.currentScript.src);

const dicom = {
  /** All values of an attribute of a dataset in the JSON model. */
  values(dataset, tag) {
    const element = dataset[tag];
    return element && Array.isArray(element.Value) ? element.Value.filter((value) => value !== null) : [];
  },

  /** The first value, or undefined. */
  value(dataset, tag) {
    return dicom.values(dataset, tag)[0];
  },

  /** The values as text for people, joined by a comma. */
  text(dataset, tag) {
    return dicom.values(dataset, tag).map(String).join(', ');
  },

  /** A person's name: family name first, components apart by blanks; the ideographic form where there is no alphabetic one. */
  name(dataset, tag) {
    const name = dicom.value(dataset, tag);
    if (!name) return '';
    const [family = '', ...given] = (name.Alphabetic || name.Ideographic || name.Phonetic || '').split('^');
    const rest = given.filter(Boolean).join(' ');
    return rest ? `${family}, ${rest}` : family;
  },

  /** A DA value as 2026-01-31. */
  date(dataset, tag) {
    const date = String(dicom.value(dataset, tag) || '');
    return /^\d{8}$/.test(date) ? `${date.slice(0, 4)}-${date.slice(4, 6)}-${date.slice(6)}` : date;
  },

  /** Fetch DICOM JSON; nothing found is an empty list. Throws an Error with the server's own words. */
  async fetch(path) {
    const answer = await fetch((await dicom.root()) + path, { headers: { Accept: 'application/dicom+json' } });
    if (answer.status === 204) return [];
    if (!answer.ok) throw new Error(await dicom.problem(answer));
    return answer.json();
  },

  /** What a failed answer says. */
  async problem(answer) {
    try {
      const problem = await answer.json();
      return `${problem.title}: ${problem.detail}`;
    } catch {
      return `The server answered ${answer.status}.`;
    }
  },

  /** What the server tells its pages: `root`, the path of DICOMweb, and `ohif`, whether that viewer is installed. */
  settings() {
    dicom.loaded ??= fetch(new URL('settings.json', home)).then((answer) => answer.json());
    return dicom.loaded;
  },

  /** The absolute URL of the DICOMweb root, without a slash at its end. */
  async root() {
    return new URL((await dicom.settings()).root.slice(1), home).href;
  },

  /** An element with attributes and children; strings become text nodes, never markup. */
  element(name, attributes = {}, ...children) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children.map((child) => (child instanceof Node ? child : String(child ?? ''))));
    return made;
  },
};
