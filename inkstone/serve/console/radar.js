// Scores of several models on some axes from 0 to 100: <Radar axes=${["quiz", ...]} lines=${[{ name, values: [93.3, ...] }]} />.

import { html } from "/console/vendor/preact-htm-3.1.1.js";

const WIDTH = 520, HEIGHT = 300, RADIUS = 110;

export function Radar({ axes, lines, label }) {
  const point = (place, share) => {
    const turn = (2 * Math.PI * place) / axes.length - Math.PI / 2;
    return [WIDTH / 2 + RADIUS * share * Math.cos(turn), HEIGHT / 2 + RADIUS * share * Math.sin(turn)];
  };
  const ring = (share) => axes.map((_, place) => point(place, share(place)).map((at) => at.toFixed(1)).join(",")).join(" ");
  const side = ([x]) => (Math.abs(x - WIDTH / 2) < 5 ? "middle" : x < WIDTH / 2 ? "end" : "start");
  return html`<figure class="chart">
    <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} class="radar" role="img" aria-label=${label}>
      ${[0.25, 0.5, 0.75, 1].map((share) => html`<polygon class="grid" points=${ring(() => share)} />`)}
      ${axes.map((name, place) => {
        const end = point(place, 1);
        const [x, y] = point(place, 1.1);
        return html`<line class="grid" x1=${WIDTH / 2} y1=${HEIGHT / 2} x2=${end[0]} y2=${end[1]} /><text x=${x} y=${y + 4} text-anchor=${side(end)}>${name}</text>`;
      })}
      ${lines.map(({ values }, place) => html`<polygon class=${`line line-${place % 4}`} points=${ring((axis) => values[axis] / 100)} />`)}
    </svg>
    <figcaption>${lines.map(({ name }, place) => html`<span class=${`key line-${place % 4}`}>${name}</span>`)}</figcaption>
  </figure>`;
}

// The rows of a score table that are percentages of all questions, not of a part (those are indented).
export function axesOf([[, ...names], ...rows]) {
  const whole = rows.filter(([label, ...cells]) => !label.startsWith(" ") && cells.every((cell) => /^[\d.]+ %/.test(cell)));
  return { axes: whole.map(([label]) => label), lines: names.map((name, place) => ({ name, values: whole.map((row) => parseFloat(row[place + 1])) })) };
}
