// The models and where each comes from, and the scores of their runs.

import { html, useEffect, useRef, useState } from "/console/vendor/preact-htm-3.1.1.js";
import { ask } from "/console/api.js";
import { Differences } from "/console/differences.js";
import { Radar, axesOf } from "/console/radar.js";
import { duration, t } from "/console/words.js";

function useAsked(path, report) {
  const [found, setFound] = useState(null);
  useEffect(() => void ask(path).then(setFound, (error) => report(error.message)), []);
  return found;
}

const last = (path) => path.split("/").filter(Boolean).at(-1) ?? path;

// A stage's own settings: of the first section that it covers.
const settingsOf = ({ stage }) => Object.values(stage?.settings ?? {})[0] ?? {};

const KINDS = ["f16", "q8_0", "q4_0"];

// Files of a model to take away: made by the server, then a link.
function Export({ model, files, change, report }) {
  const [kind, pick] = useState("q8_0");
  const kinds = model.adapter ? [...KINDS, "adapter"] : KINDS;
  const make = () => ask("/api/exports", "POST", { model: model.name, kind }).then(change, (error) => report(error.message));
  const drop = (file) => () => ask(address(file), "DELETE").then(() => change({ ...file, state: "none" }), (error) => report(error.message));
  const busy = files.some((file) => file.kind === kind && file.state === "running");
  return html`<details class="export"><summary>${t("export")}</summary>
    <p class="buttons start">
      <select aria-label=${t("export_kind", { name: model.name })} value=${kind} onChange=${(event) => pick(event.target.value)}>${kinds.map((one) => html`<option value=${one}>${t(`export_${one}`)}</option>`)}</select>
      <button aria-label=${t("export_make", { name: model.name })} disabled=${busy} onClick=${make}>${t("export_do")}</button>
    </p>
    ${files.map((file) => html`<p key=${file.kind} role=${file.state === "failed" ? "alert" : "status"} class="plain">${
      file.state === "done" ? html`<a href=${address(file)} download>${t("export_fetch", { kind: t(`export_${file.kind}`), size: megabytes(file.bytes) })}</a> <button class="quiet" aria-label=${t("remove_it", { name: t(`export_${file.kind}`) })} onClick=${drop(file)}>×</button>`
      : file.state === "running" ? t("export_running", { kind: t(`export_${file.kind}`) })
      : t("export_failed", { kind: t(`export_${file.kind}`), why: file.error })}</p>`)}
  </details>`;
}

const address = ({ kind, model }) => `/api/exports/${kind}/${model.split("/").map(encodeURIComponent).join("/")}`;
const megabytes = (size) => (size < 2 ** 20 ? `${Math.ceil(size / 1024)} KiB` : size < 2 ** 30 ? `${Number((size / 2 ** 20).toPrecision(3))} MiB` : `${Number((size / 2 ** 30).toPrecision(3))} GiB`);

// The files that there are, asked for again while any is being made.
function useExports(report) {
  const [files, setFiles] = useState([]);
  const clock = useRef(null);
  const look = () => ask("/api/exports").then(setFiles, (error) => report(error.message));
  useEffect(() => void look(), []);
  useEffect(() => {
    if (files.some(({ state }) => state === "running")) clock.current = setTimeout(look, 1000);
    return () => clearTimeout(clock.current);
  }, [files]);
  const change = (file) => setFiles((now) => [...now.filter((one) => one.model !== file.model || one.kind !== file.kind), file].filter(({ state }) => state !== "none"));
  return [files, change];
}

// What a model was made from, nearest first: models of this server, at the end perhaps a name alone.
function ancestors(model, models) {
  const found = [];
  for (let one = model; one && found.length < 20; ) {
    const base = one.base ? models.find(({ name }) => name === one.base).directory : settingsOf(one).base;
    if (!base) break;
    const beside = `${one.directory.split("/").slice(0, -1).join("/")}/${base}`;
    const next = models.find(({ directory }) => directory === base || directory === beside);
    found.push(next?.name ?? last(base));
    one = next;
  }
  return found;
}

export function Models({ models: talking, report }) {
  const models = useAsked("/api/models", report);
  const [files, change] = useExports(report);
  const talk = (name) => () => {
    localStorage.setItem("model", name);
    location.hash = "#/chat";
  };
  return html`<section class="page">
    <h2>${t("page_models")}</h2>
    <p>${t("models_why")}</p>
    ${!models && html`<p>${t("waiting")}</p>`}
    ${models?.map((model) => html`<article class="pair" key=${model.name} aria-label=${model.name}>
      <h3>${model.name}</h3>
      <${Origin} model=${model} models=${models} />
      <p class="buttons start">
        ${talking.includes(model.name) && html`<button onClick=${talk(model.name)}>${t("talk")}</button>`}
        ${!model.base && html`<a class="button plain-button" href=${`#/tune/new/model/${encodeURIComponent(model.name)}`}>${t("tune_it")}</a>`}
      </p>
      ${!model.base && html`<${Export} model=${model} files=${files.filter((file) => file.model === model.name)} change=${change} report=${report} />`}
    </article>`)}
  </section>`;
}

function Origin({ model, models }) {
  if (model.base) return html`<dl class="facts"><dt>${t("method")}</dt><dd>${t("adapter_on", { base: model.base })}</dd><dt>${t("lineage")}</dt><dd>${[model.name, ...ancestors(model, models)].join(" ← ")}</dd></dl>`;
  if (!model.stage) return html`<p class="faint">${t("made_elsewhere")}</p>`;
  const settings = settingsOf(model);
  const { result, seconds } = model.stage;
  const facts = [
    ["lineage", [model.name, ...ancestors(model, models)].join(" ← ")],
    ["method", [settings.method && t(settings.method), settings.method && t({ lora: "lora", prefix: "prefix" }[settings.adapter] ?? "whole")].filter(Boolean).join(" · ")],
    ["data", (settings.inputs ?? []).map(last).join(", ")],
    ["steps", result.steps],
    ["time_taken", duration(seconds)],
    ["loss", result.loss?.toFixed(4)],
    ["heldout_loss", across(result.heldout_loss_before, result.heldout_loss)],
    ["heldout_accuracy", across(result.heldout_accuracy_before, result.heldout_accuracy)],
  ];
  return html`<dl class="facts">${facts.filter(([, value]) => value).map(([name, value]) => html`<dt>${t(name)}</dt><dd>${value}</dd>`)}</dl>`;
}

const across = (before, after) => [before, after].filter(Number.isFinite).map((value) => value.toFixed(4)).join(" → ");

export function Evaluation({ report }) {
  const runs = useAsked("/api/evaluations", report);
  return html`<section class="page">
    <h2>${t("page_evaluation")}</h2>
    <p>${t("evaluation_why")}</p>
    ${!runs && html`<p>${t("waiting")}</p>`}
    ${runs?.length === 0 && html`<p>${t("no_scores")}</p>`}
    ${runs && html`<${Differences} runs=${runs} report=${report} />`}
    ${runs?.map(({ run, table: [head, ...rows] }) => html`<h3>${run}</h3>
      <${Shape} run=${run} table=${[head, ...rows]} />
      <div class="wide" tabindex="0" role="region" aria-label=${run}><table>
        <thead><tr>${head.map((name, place) => html`<th scope="col">${place ? name : t("score")}</th>`)}</tr></thead>
        <tbody>${rows.map(([name, ...cells]) => html`<tr><th scope="row" class="plain">${name}</th>${cells.map((cell) => html`<td>${cell}</td>`)}</tr>`)}</tbody>
      </table></div>`)}
  </section>`;
}

function Shape({ run, table }) {
  const { axes, lines } = axesOf(table);
  return axes.length < 3 ? null : html`<${Radar} axes=${axes} lines=${lines} label=${t("radar", { run })} />`;
}
