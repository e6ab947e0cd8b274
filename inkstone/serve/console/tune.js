// Fine-tuning: the list of tasks, and by the address #/tune/new the wizard or #/tune/3 one task.

import { html, useEffect, useState } from "/console/vendor/preact-htm-3.1.1.js";
import { ask } from "/console/api.js";
import { Task } from "/console/task.js";
import { Wizard } from "/console/wizard.js";
import { day, duration, t } from "/console/words.js";

export const remaining = ({ task, progress }) =>
  progress.unit === "steps" && progress.fields.tokens_per_second
    ? ((progress.total - progress.done) * task.takes.batch_tokens) / progress.fields.tokens_per_second
    : null;

export const ended = ({ state }) => ["stopped", "succeeded", "failed"].includes(state);

export function Tune({ report }) {
  const [place, setPlace] = useState(location.hash);
  useEffect(() => {
    const turn = () => setPlace(location.hash);
    addEventListener("hashchange", turn);
    return () => removeEventListener("hashchange", turn);
  }, []);
  const [, , what, preset, model] = place.split("/");
  if (what === "new") return html`<${Wizard} preset=${preset ?? ""} model=${decodeURIComponent(model ?? "")} report=${report} key=${place} />`;
  if (what) return html`<${Task} number=${Number(what)} report=${report} key=${what} />`;
  return html`<${List} report=${report} />`;
}

function List({ report }) {
  const [tasks, setTasks] = useState(null);
  useEffect(() => {
    const look = () => ask("/api/tasks").then(setTasks, (error) => report(error.message));
    look();
    const clock = setInterval(look, 2000);
    return () => clearInterval(clock);
  }, []);
  return html`<section class="page">
    <h2>${t("page_tune")}</h2>
    <p>${t("tune_why")}</p>
    <p><a class="button" href="#/tune/new">${t("new_tasks")}</a></p>
    ${!tasks && html`<p>${t("waiting")}</p>`}
    ${tasks?.length === 0 && html`<p>${t("no_tasks")}</p>`}
    ${tasks?.length > 0 && html`<div class="wide" tabindex="0" role="region" aria-label=${t("page_tune")}><table>
      <thead><tr>${["task", "model", "method", "state", "left", "made"].map((name) => html`<th scope="col">${t(name)}</th>`)}</tr></thead>
      <tbody>${tasks.map((one) => html`<tr key=${one.id}>
        <td><a href=${`#/tune/${one.id}`}>${one.id} ${one.name}</a></td>
        <td>${one.task.model}</td>
        <td>${t(one.task.takes.method)} · ${t(one.task.method)}</td>
        <td><${State} task=${one} /></td>
        <td>${ended(one) ? "" : duration(remaining(one))}</td>
        <td>${day(one.created)}</td>
      </tr>`)}</tbody>
    </table></div>`}
  </section>`;
}

export function State({ task }) {
  const { done, total, unit } = task.progress;
  const part = total && !ended(task) ? Math.floor((100 * done) / total) : null;
  return html`<span class=${`state ${task.state}`}>${t(`state_${task.state}`)}</span>${part !== null && html` <progress max="100" value=${part} aria-label=${t("progress")} /> ${part}%`}
    ${unit && unit !== "steps" && !ended(task) && html` <small>${unit}</small>`}`;
}
