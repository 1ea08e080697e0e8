// The API, readable: renders /openapi.json.
'use strict';

const element = dicom.element;

/** Text in which `words` between backticks are code. */
function prose(text) {
  return text.split('`').map((piece, index) => (index % 2 ? element('code', {}, piece) : piece));
}

function example(content) {
  const shown = typeof content.example === 'string' ? content.example : JSON.stringify(content.example, null, 1);
  return element('pre', { tabindex: '0' }, shown);
}

function contents(map) {
  return Object.entries(map || {}).flatMap(([type, content]) => [
    element('p', {}, element('code', {}, type)),
    ...(content.example === undefined ? [] : [example(content)]),
  ]);
}

function parameters(list) {
  if (!list.length) return [];
  const head = element('tr', {}, ...['Name', 'In', 'Meaning', 'Example'].map((text) => element('th', { scope: 'col' }, text)));
  const rows = list.map((each) =>
    element(
      'tr',
      {},
      element('th', { scope: 'row' }, element('code', {}, each.name), each.required ? ' (required)' : ''),
      element('td', { 'data-label': 'In' }, each.in),
      element('td', { 'data-label': 'Meaning' }, ...prose(each.description)),
      element('td', { 'data-label': 'Example' }, element('code', {}, each.example)),
    ),
  );
  return [element('h4', {}, 'Parameters'), element('table', {}, element('thead', {}, head), element('tbody', {}, ...rows))];
}

function operation(method, path, described) {
  const details = element(
    'details',
    { class: 'operation', id: described.operationId },
    element(
      'summary',
      {},
      element('span', { class: 'method' }, method.toUpperCase()),
      element('code', {}, path),
      ` ${described.summary}`,
    ),
    element('p', {}, ...prose(described.description)),
    element('p', {}, 'Scope: ', element('code', {}, described['x-scope'])),
    ...parameters(described.parameters),
  );
  if (described.requestBody) details.append(element('h4', {}, 'Body'), ...contents(described.requestBody.content));
  details.append(element('h4', {}, 'Answers'));
  for (const [code, answer] of Object.entries(described.responses)) {
    details.append(element('p', {}, element('strong', {}, code), ' ', ...prose(answer.description)), ...contents(answer.content));
  }
  return details;
}

async function start() {
  const api = await (await fetch(new URL('openapi.json', home))).json();
  const sections = new Map(api.tags.map(({ name }) => [name, element('section', {}, element('h2', {}, name))]));
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, described] of Object.entries(methods)) {
      sections.get(described.tags[0]).append(operation(method, path, described));
    }
  }
  document.getElementById('operations').append(...sections.values());
  document.getElementById('status').textContent = `${api.info.title} ${api.info.version}: ${api.info.summary}`;
}

start().catch((error) => {
  document.getElementById('status').textContent = error.message;
});
