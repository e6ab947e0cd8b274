// New tasks: models x data sets x methods, one task for each combination; a table of estimates to confirm.

import { html, useEffect, useState } from "/console/vendor/preact-htm-3.1.1.js";
import { Failure, ask, upload } from "/console/api.js";
import { Window } from "/console/dialogs.js";
import { Preview } from "/console/preview.js";
import { day, duration, t } from "/console/words.js";

const METHODS = ["lora", "whole"];

export function Wizard({ preset, model: wanted, report }) {
  const [models, setModels] = useState([]);
  const [data, setData] = useState([]);
  const [picked, setPicked] = useState({ models: [], data: [], methods: ["lora"], test: null });
  const [more, setMore] = useState({});
  const [rows, setRows] = useState(null);
  const [seen, see] = useState(null);
  const [former, setFormer] = useState([]);
  const pick = (name) => (value) => setPicked((now) => ({ ...now, [name]: value }));

  const safely = (work) => async (...given) => {
    try {
      return await work(...given);
    } catch (error) {
      report(error.message);
    }
  };
  const drop = (id) =>
    safely(async () => {
      if (!confirm(t("remove_sure", { name: nameOf(id) }))) return;
      await ask(`/api/datasets/${id}`, "DELETE");
      setPicked((now) => ({ ...now, data: now.data.filter((one) => one !== id), test: now.test === id ? null : now.test }));
      await list();
    });
  const list = safely(async () => setData(await ask("/api/datasets")));
  const plan = safely(async (tasks) => setRows(await ask("/api/tasks/plan", "POST", { tasks })));
  useEffect(() => {
    safely(async () => {
      const known = (await ask("/v1/models")).data.filter(({ parent }) => !parent).map(({ id }) => id);
      setModels(known);
      await list();
      setFormer(await ask("/api/tasks"));
      const [kind, number] = preset.split("-");
      if (kind === "task") {
        const { task, created } = await ask(`/api/tasks/${number}`);
        const { model, data, method, test, epochs, learning_rate, sequence_length } = task;
        // A set that was removed meanwhile is picked no more, nor a later one that has its number in an older database.
        const still = (await ask("/api/datasets")).filter((one) => one.created <= created).map(({ id }) => id);
        setPicked({ models: [model], data: still.filter((id) => id === data), methods: [method], test: still.includes(test) ? test : null });
        setMore({ epochs, learning_rate, sequence_length });
      } else if (kind === "model") {
        pick("models")([wanted]);
      } else if (kind === "data") {
        // From the thumbs: the model that answered, and straight to the estimate.
        const model = known.includes(wanted) ? wanted : known[0];
        setPicked({ models: [model], data: [Number(number)], methods: ["lora"], test: null });
        await plan([{ model, data: Number(number), method: "lora" }]);
      }
    })();
  }, []);

  const tasks = picked.models.flatMap((model) => picked.data.flatMap((one) => picked.methods.map((method) => ({ ...more, model, data: one, method, test: picked.test }))));
  const start = safely(async () => {
    await ask("/api/tasks", "POST", { tasks: rows.map(asked) });
    location.hash = "#/tune";
  });
  const nameOf = (number) => data.find(({ id }) => id === number)?.name ?? number;
  return html`<section class="page">
    <p><a href="#/tune">← ${t("to_tasks")}</a></p>
    <h2>${t("new_tasks")}</h2>
    <${Card} title=${t("pick_model")} names=${["name"]} rows=${models.map((id) => ({ id, cells: [id] }))} chosen=${picked.models} choose=${pick("models")} />
    <${Card} title=${t("pick_data")} names=${["name", "kind", "count", "made", "operation"]} chosen=${picked.data} choose=${pick("data")}
      rows=${data.map(({ id, name, about, created }) => ({ id, cells: [name, t(`kind_${about.kind}`), about.rows, day(created), html`<button aria-label=${t("preview_it", { name })} disabled=${!models.length} onClick=${() => see({ id, name })}>${t("preview")}</button> <button class="quiet" aria-label=${t("remove_it", { name })} onClick=${drop(id)}>×</button>`] }))}>
      <${Upload} onDone=${list} report=${report} />
    <//>
    <${Card} title=${t("pick_method")} names=${["name", "what"]} rows=${METHODS.map((id) => ({ id, cells: [t(id), t(`${id}_what`)] }))} chosen=${picked.methods} choose=${pick("methods")} />
    <${Card} title=${t("pick_test")} names=${["name", "kind", "count"]} chosen=${[picked.test]} choose=${([last]) => pick("test")(last)} single
      rows=${[{ id: null, cells: [t("none"), "", ""] }, ...data.map(({ id, name, about }) => ({ id, cells: [name, t(`kind_${about.kind}`), about.rows] }))]} />
    <p class="buttons"><button class="main" disabled=${!tasks.length || tasks.length > 64} onClick=${() => plan(tasks)}>${t("confirm", { count: tasks.length })}</button></p>
    ${seen && html`<${Preview} data=${seen} models=${models} model=${picked.models[0] ?? models[0]} onClose=${() => see(null)} />`}
    ${rows && html`<${Window} title=${t("confirm_title")} save=${t("start", { count: rows.length })} ready=${rows.length > 0 && rows.every(({ problem }) => !problem)} wide onClose=${() => setRows(null)} onSave=${start}>
      <div class="wide" tabindex="0" role="region" aria-label=${t("confirm_title")}><table>
        <thead><tr>${["model", "data", "method", "test", "epochs", "learning_rate", "memory", "time", "operation"].map((name) => html`<th scope="col">${t(name)}</th>`)}</tr></thead>
        <tbody>${rows.map((row, place) => html`<${Row} key=${place} row=${row} rate=${measured(former, row)} nameOf=${nameOf} change=${(values) => plan(rows.map(asked).with(place, { ...asked(row), ...values }))} remove=${() => setRows(rows.filter((one) => one !== row))} />`)}</tbody>
      </table></div>
      <p class="faint">${t("estimate_why")}</p>
    <//>`}
  </section>`;
}

const asked = ({ model, data, method, test, epochs, learning_rate, sequence_length }) => ({ model, data, method, test, epochs, learning_rate, sequence_length });

// Tokens a second of the last task that trained this model, or made it, in the same way on this machine.
const measured = (former, { model, method, takes }) =>
  former.find((one) => [one.task.model, one.model].includes(model) && one.task.method === method && one.task.takes.method === takes?.method && one.progress.fields?.tokens_per_second > 0)?.progress.fields.tokens_per_second;

function Row({ row, rate, nameOf, change, remove }) {
  const number = (name, shown, step) => html`<input type="number" class="short" min="0" step=${step} aria-label=${t(name)} value=${shown} onChange=${(event) => change({ [name]: event.target.value === "" ? null : Number(event.target.value) })} />`;
  const { takes } = row;
  const fits = !takes?.memory_gib || takes.memory_gib <= takes.room_gib;
  return html`<tr>
    <td>${row.model}</td><td>${nameOf(row.data)}</td><td>${takes ? t(takes.method) : ""} ${t(row.method)}</td><td>${row.test ? nameOf(row.test) : t("none")}</td>
    <td>${number("epochs", row.epochs, "any")}</td>
    <td>${number("learning_rate", row.learning_rate ?? takes?.learning_rate, "any")}</td>
    ${row.problem ? html`<td colspan="2" role="alert">${row.problem}</td>` : html`
      <td>${takes.memory_gib ? html`${row.method === "lora" ? "≤ " : ""}${gib(takes.memory_gib)} / ${gib(takes.room_gib)} ${!fits && html`<strong>${t("too_large")}</strong>`}` : t("unknown")}</td>
      <td>${rate ? t("as_measured", { time: duration((takes.steps * takes.batch_tokens) / rate) }) : takes.hours ? span(...takes.hours.map((hours) => duration(hours * 3600))) : t("unknown")}</td>`}
    <td><button type="button" class="quiet" aria-label=${t("remove_it", { name: nameOf(row.data) })} onClick=${remove}>×</button></td>
  </tr>`;
}

const gib = (size) => (size < 0.1 ? `${Math.ceil(size * 1024)} MiB` : `${Number(size.toPrecision(3))} GiB`);
const span = (least, most) => (least === most ? most : `${least} – ${most}`);

function Card({ title, names, rows, chosen, choose, single, children }) {
  const some = rows.filter(({ id }) => chosen.includes(id)).length;
  const turn = (id) => (event) => choose(single ? [id] : event.target.checked ? [...chosen, id] : chosen.filter((one) => one !== id));
  return html`<details class="card" open>
    <summary><strong>${title}</strong> ${!single && html`<span class="faint">${some} / ${rows.length}</span>`}</summary>
    ${children}
    <div class="wide" tabindex="0" role="region" aria-label=${title}><table>
      <thead><tr>
        <td>${!single && rows.length > 0 && html`<input type="checkbox" aria-label=${`${t("all")}: ${title}`} checked=${some === rows.length} ref=${(box) => box && (box.indeterminate = some > 0 && some < rows.length)}
          onChange=${() => choose(some === rows.length ? [] : rows.map(({ id }) => id))} />`}</td>
        ${names.map((name) => html`<th scope="col">${t(name)}</th>`)}
      </tr></thead>
      <tbody>${rows.map(({ id, cells }) => html`<tr key=${id}>
        <td><input type=${single ? "radio" : "checkbox"} name=${single ? title : null} aria-label=${`${title}: ${cells[0]}`} checked=${chosen.includes(id)} onChange=${turn(id)} /></td>
        ${cells.map((cell) => html`<td>${cell}</td>`)}
      </tr>`)}</tbody>
    </table></div>
  </details>`;
}

function Upload({ onDone, report }) {
  const [told, tell] = useState(null);
  const send = async (event) => {
    const [file] = event.target.files;
    if (!file) return;
    tell({ busy: file.name });
    try {
      tell(await upload(file.name, file));
    } catch (error) {
      tell({ said: error.message });
      if (!(error instanceof Failure)) report(error.message);
    }
    event.target.value = "";
    onDone();
  };
  return html`<label class="field"><span>${t("upload_why")}</span><input type="file" accept=".json,.jsonl,.gz,.zst,.xz" aria-label=${t("upload")} onChange=${send} /></label>
    ${told?.busy && html`<p role="status">${told.busy} …</p>`}
    ${told?.said && html`<p role="alert" class="plain">${told.said}</p>`}
    ${told?.about && html`<p role="status">${t("uploaded", { name: told.name, kind: t(`kind_${told.about.kind}`), rows: told.about.rows, faulty: told.about.faulty })}</p>
      ${told.about.faults.length > 0 && html`<ul class="faults">${told.about.faults.map((fault) => html`<li>${fault}</li>`)}</ul>`}`}`;
}
