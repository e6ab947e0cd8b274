// Two of the evaluated models: each task with its paired comparison, and the questions that only one of them has right.

import { html, useRef, useState } from "/console/vendor/preact-htm-3.1.1.js";
import { ask } from "/console/api.js";
import { Field } from "/console/dialogs.js";
import { t } from "/console/words.js";

const SIDES = ["a", "b"];

export function Differences({ runs, report }) {
  const models = runs.flatMap(({ run, folder, table: [[, ...names]] }) => names.map((model) => ({ folder, model, label: `${run} · ${model}` })));
  const [picked, pick] = useState({ a: models.length - 2, b: models.length - 1 });
  const [told, tell] = useState(null);
  const last = useRef(0);
  if (models.length < 2) return null;
  const look = async (sides, task = "", start = 0) => {
    const [a, b] = SIDES.map((side) => models[sides[side]]), turn = ++last.current;
    const asked = new URLSearchParams({ a_run: a.folder, a: a.model, b_run: b.folder, b: b.model, task, start });
    try {
      const found = await ask(`/api/differences?${asked}`);
      if (turn === last.current) tell({ ...found, sides, task, start, a: a.label, b: b.label });
    } catch (error) {
      report(error.message);
    }
  };
  const compare = (event) => (event.preventDefault(), look(picked));
  return html`<h3>${t("differences")}</h3>
    <p>${t("differences_why")}</p>
    <form onSubmit=${compare}>
      <div class="numbers">${SIDES.map((side) => html`<${Field} label=${t(`model_${side}`)}><select value=${picked[side]} onChange=${(event) => pick({ ...picked, [side]: Number(event.target.value) })}>${models.map(({ label }, place) => html`<option value=${place}>${label}</option>`)}</select><//>`)}</div>
      <p class="buttons start"><button class="main" disabled=${picked.a === picked.b}>${t("compare_do")}</button></p>
    </form>
    ${told && html`<${Table} told=${told} show=${(task) => look(told.sides, task)} />
      ${told.task && html`<${Questions} told=${told} turn=${(start) => look(told.sides, told.task, start)} />`}`}`;
}

const percent = (share) => (100 * share).toFixed(1);
const signed = (share) => `${share < 0 ? "−" : "+"}${percent(Math.abs(share))}`;

function Table({ told, show }) {
  const label = t("compared", { a: told.a, b: told.b });
  return html`<p role="status">${label}</p>
    <div class="wide" tabindex="0" role="region" aria-label=${label}><table>
      <thead><tr>${["task", "questions", "percent_a", "percent_b", "difference", "only_a", "only_b", "p_value", "operation"].map((name) => html`<th scope="col">${t(name)}</th>`)}</tr></thead>
      <tbody>${told.tasks.map((one) => html`<tr key=${one.task}>
        <th scope="row">${one.task}</th><td>${one.items}</td><td>${percent(one.a)}</td><td>${percent(one.b)}</td>
        <td>${signed(one.difference)} (${signed(one.low)} – ${signed(one.high)})</td><td>${one.only_a}</td><td>${one.only_b}</td><td>${Number(one.p.toPrecision(2))}</td>
        <td><button aria-pressed=${String(told.task === one.task)} aria-label=${t("show_questions", { task: one.task })} disabled=${one.only_a + one.only_b === 0} onClick=${() => show(one.task)}>${t("show")}</button></td>
      </tr>`)}</tbody>
    </table></div>
    ${told.tasks.length === 0 && html`<p role="alert">${t("nothing_in_common")}</p>`}
    ${told.refused.length > 0 && html`<p>${t("not_compared")}</p><ul class="faults">${told.refused.map((why) => html`<li>${why}</li>`)}</ul>`}`;
}

function Questions({ told, turn }) {
  const { task, start, total, rows } = told, end = start + rows.length, size = Math.max(rows.length, 50);
  const label = t("show_questions", { task });
  const answer = (row, side) => html`<td class="plain answer">${row.better === side && html`<strong>✓ ${t("right")}</strong> `}${row[side]}</td>`;
  return html`<h3>${label}</h3>
    <p class="buttons start" role="status">${t("page_line", { from: start + 1, to: end, all: total })}
      <button disabled=${start === 0} onClick=${() => turn(Math.max(0, start - size))}>${t("page_before")}</button>
      <button disabled=${end >= total} onClick=${() => turn(end)}>${t("page_after")}</button>
    </p>
    <div class="wide" tabindex="0" role="region" aria-label=${label}><table>
      <thead><tr><th scope="col">${t("question")}</th><th scope="col">A: ${told.a}</th><th scope="col">B: ${told.b}</th><th scope="col">${t("right_answer")}</th></tr></thead>
      <tbody>${rows.map((row) => html`<tr key=${row.id}><th scope="row" class="plain answer"><small>${row.id}</small>${row.question && `\n${row.question}`}</th>${answer(row, "a")}${answer(row, "b")}<td class="plain answer">${row.right}</td></tr>`)}</tbody>
    </table></div>`;
}
