// A line chart drawn here, in the page's own colours: <Chart lines=${[{ name, points: [[x, y], ...], dots }]} />.

import { html } from "/console/vendor/preact-htm-3.1.1.js";

const WIDTH = 640, HEIGHT = 220, LEFT = 44, BOTTOM = 22, TOP = 8, RIGHT = 10;

export function Chart({ lines, label, across }) {
  const shown = lines.filter(({ points }) => points.length);
  const all = shown.flatMap(({ points }) => points);
  if (!all.length) return null;
  const [left, right] = range(all.map(([x]) => x));
  const [low, high] = range(all.map(([, y]) => y));
  const x = (value) => LEFT + ((value - left) / (right - left)) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((value - low) / (high - low)) * (HEIGHT - BOTTOM - TOP);
  const path = (points) => points.map(([a, b], place) => `${place ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
  return html`<figure class="chart">
    <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label=${label}>
      ${ticks(low, high, 4).map((tick) => html`<line class="grid" x1=${LEFT} x2=${WIDTH - RIGHT} y1=${y(tick)} y2=${y(tick)} />
        <text x=${LEFT - 6} y=${y(tick) + 4} text-anchor="end">${short(tick)}</text>`)}
      ${ticks(left, right, 5).map((tick) => html`<text x=${x(tick)} y=${HEIGHT - 5} text-anchor="middle">${short(tick)}</text>`)}
      ${shown.map(({ points, dots }, place) => html`<path class=${`line line-${place}`} d=${path(points)} />
        ${dots && points.map(([a, b]) => html`<circle class=${`dot line-${place}`} cx=${x(a)} cy=${y(b)} r="3" />`)}`)}
    </svg>
    <figcaption>${shown.map(({ name, points }, place) => html`<span class=${`key line-${place}`}>${name} ${short(points.at(-1)[1])}</span>`)} <span>${across}</span></figcaption>
  </figure>`;
}

function range(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) [low, high] = [Math.min(low, value), Math.max(high, value)];
  return low < high ? [low, high] : [low - 0.5, high + 0.5];
}

// Round numbers within a range, about so many.
function ticks(low, high, count) {
  const rough = (high - low) / count;
  const ten = 10 ** Math.floor(Math.log10(rough));
  const step = ten * [1, 2, 5, 10].find((size) => size * ten >= rough);
  const found = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high + step / 1e6; tick += step) found.push(tick);
  return found;
}

const short = (value) => Number(value.toPrecision(4)).toString();
