// What is shown, behind the # of the address: whoever opens the address sees the same.

const PATIENCE = 250;
let timer = 0;
const held = new URLSearchParams(location.hash.slice(1));

/** A number out of the address, or undefined. */
export function number(name) {
  const value = parseFloat(held.get(name) ?? '');
  return Number.isFinite(value) ? value : undefined;
}

/** A text out of the address, or undefined. */
export function text(name) {
  return held.get(name) ?? undefined;
}

/** Put values into the address; undefined removes one. Browsers allow this only so many times in a second. */
export function put(values) {
  for (const [name, value] of Object.entries(values)) {
    if (value === undefined) held.delete(name);
    else held.set(name, value);
  }
  clearTimeout(timer);
  timer = setTimeout(() => history.replaceState(null, '', `#${held}`), PATIENCE);
}

/** Call `then` when somebody puts another view into the address of the open page. */
export function whenChanged(then) {
  addEventListener('hashchange', () => {
    clearTimeout(timer);
    const given = new URLSearchParams(location.hash.slice(1));
    for (const name of [...held.keys()]) held.delete(name);
    for (const [name, value] of given) held.set(name, value);
    then();
  });
}
