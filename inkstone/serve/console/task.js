// One task: what it does now, its loss, its log and recipe; stop, resume, clone, and its model beside the base.

import { html, useEffect, useRef, useState } from "/console/vendor/preact-htm-3.1.1.js";
import { ask } from "/console/api.js";
import { Chart } from "/console/chart.js";
import { State, ended, remaining } from "/console/tune.js";
import { duration, t } from "/console/words.js";

export function Task({ number, report }) {
  const [task, setTask] = useState(null);
  const [rows, setRows] = useState([]);
  const [notes, setNotes] = useState([]);
  const [, again] = useState(0);
  const source = useRef(null);
  const path = `/api/tasks/${number}`;

  const load = () => ask(path).then(setTask, (error) => report(error.message));
  const follow = () => {
    source.current?.close();
    // A browser takes the stream up again by itself, after the last event that it had.
    const events = (source.current = new EventSource(`${path}/events`));
    setRows([]);
    setNotes([]);
    events.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      // A run that goes on from a checkpoint does the steps after it again.
      if (event.kind === "metrics") setRows((now) => [...now.filter((row) => row.step < event.row.step || (row.step === event.row.step && !("loss" in event.row))), event.row]);
      if (event.kind === "note") setNotes((now) => [...now, event.note]);
      if (event.kind === "progress") setTask((now) => now && { ...now, progress: event });
    };
    events.addEventListener("state", ({ data }) => {
      if (ended(JSON.parse(data))) events.close();
      load();
    });
  };
  useEffect(() => {
    follow();
    return () => source.current?.close();
  }, [number]);
  const act = (what) => async () => {
    try {
      await ask(`${path}/${what}`, "POST");
      await load();
      if (what === "resume") follow();
    } catch (error) {
      report(error.message);
    }
    again((count) => count + 1);
  };
  const remove = async () => {
    if (!confirm(t("remove_task_sure", { name: task.name }))) return;
    try {
      await ask(path, "DELETE");
      location.hash = "#/tune";
    } catch (error) {
      report(error.message);
    }
  };
  const talk = (beside) => () => {
    localStorage.setItem("model", beside ? task.task.model : task.model);
    localStorage.setItem("beside", beside ? task.model : "");
    location.hash = "#/chat";
  };

  if (!task) return html`<section class="page"><p><a href="#/tune">${t("to_tasks")}</a></p><p>${t("waiting")}</p></section>`;
  const { takes } = task.task;
  const line = (field) => rows.filter((row) => Number.isFinite(row[field])).map((row) => [row.step, row[field]]);
  const open = !ended(task);
  return html`<section class="page">
    <p><a href="#/tune">← ${t("to_tasks")}</a></p>
    <h2>${task.id} ${task.name}</h2>
    <p>${task.task.model} · ${t(takes.method)} · ${t(task.task.method)} · ${t("settings_line", { epochs: task.task.epochs, rate: takes.learning_rate, length: takes.sequence_length, steps: takes.steps })}</p>
    <p role="status"><${State} task=${task} /> ${open && remaining(task) !== null && t("left_line", { time: duration(remaining(task)) })}</p>
    ${task.error && html`<p class="alert" role="alert">${task.error}</p>`}
    <p class="buttons start">
      ${open && html`<button onClick=${act("stop")}>${t(task.state === "stopping" ? "kill" : "stop")}</button>`}
      ${["stopped", "failed"].includes(task.state) && html`<button class="main" onClick=${act("resume")}>${t("resume")}</button>`}
      ${task.model && html`<button class="main" onClick=${talk(true)}>${t("compare")}</button><button onClick=${talk(false)}>${t("talk")}</button>`}
      <a class="button plain-button" href=${`#/tune/new/task-${task.id}`}>${t("clone")}</a>
      ${!open && html`<button class="quiet" onClick=${remove}>${t("remove")}</button>`}
    </p>
    <${Result} result=${task.result} />
    <${Chart} lines=${[{ name: t("loss"), points: line("loss") }, { name: t("heldout"), points: line("heldout_loss"), dots: true }]} label=${t("loss_curve")} across=${t("steps")} />
    ${notes.length > 0 && html`<details><summary>${t("notes")}</summary><ul>${notes.map((note) => html`<li>${note}</li>`)}</ul></details>`}
    <details onToggle=${(event) => event.target.open && load()}><summary>${t("log")}</summary><pre tabindex="0">${task.log || "–"}</pre></details>
    <details><summary>${t("recipe")}</summary><pre tabindex="0">${task.recipe}</pre></details>
  </section>`;
}

const FIGURES = [["heldout_loss_before", "heldout_loss"], ["heldout_accuracy_before", "heldout_accuracy"]];

function Result({ result }) {
  if (!result?.steps) return null;
  const pairs = FIGURES.filter(([before]) => Number.isFinite(result[before]));
  return html`<p>${t("result_line", { steps: result.steps, time: duration(result.seconds), rate: Math.round(result.tokens_per_second) })}</p>
    ${pairs.length > 0 && html`<div class="wide" tabindex="0" role="region" aria-label=${t("measured")}><table>
      <thead><tr><th scope="col">${t("measured")}</th><th scope="col">${t("before")}</th><th scope="col">${t("after")}</th></tr></thead>
      <tbody>${pairs.map(([before, after]) => html`<tr><th scope="row">${t(after)}</th><td>${result[before].toFixed(4)}</td><td>${result[after].toFixed(4)}</td></tr>`)}</tbody>
    </table></div>`}`;
}
