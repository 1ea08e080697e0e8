// Lengths and areas for people. What is measured comes in micrometres; without a scale, in pixels.

function rounded(value) {
  return Number(value.toPrecision(3)).toLocaleString('en', { maximumFractionDigits: 3 });
}

/** A length in µm, or in mm from one millimetre on. */
export function length(microns) {
  return microns < 1000 ? `${rounded(microns)} µm` : `${rounded(microns / 1000)} mm`;
}

/** An area in µm², or in mm² from a tenth of one on. */
export function area(squareMicrons) {
  return squareMicrons < 1e5 ? `${rounded(squareMicrons)} µm²` : `${rounded(squareMicrons / 1e6)} mm²`;
}

/** The largest of 1, 2 and 5 times a power of ten that is not above `value`. */
export function round125(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [5, 2, 1].find((step) => step * power <= value * (1 + 1e-9));
}
