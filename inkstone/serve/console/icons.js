// The signs on buttons, drawn here: no font needs to have them.

import { html } from "/console/vendor/preact-htm-3.1.1.js";

const SHAPES = {
  copy: "M6 6V3h8v8h-3M2 6h8v8H2z",
  pen: "M3 13l1-4 7-7 3 3-7 7zM9 4l3 3",
  plus: "M8 3v10M3 8h10",
  again: "M13 8a5 5 0 1 1-1.6-3.7M13 1.5v3h-3",
  up: "M2 7h3v7H2zM5 7l3-5.5c1.4 0 1.8 1 1.6 2L9.2 6H14l-1.3 8H5",
  down: "M2 9h3V2H2zM5 9l3 5.5c1.4 0 1.8-1 1.6-2L9.2 10H14l-1.3-8H5",
};

export function Icon({ name }) {
  return html`<svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><path d=${SHAPES[name]} /></svg>`;
}
