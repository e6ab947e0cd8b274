// Private knowledge: collections of files that answers are looked up in; and the passages that an answer was given.

import { html, useEffect, useState } from "/console/vendor/preact-htm-3.1.1.js";
import { Failure, ask, upload } from "/console/api.js";
import { t } from "/console/words.js";

export function Knowledge({ report }) {
  const [collections, setCollections] = useState(null);
  const [name, setName] = useState("");
  const safely = (work) => async (...given) => {
    try {
      return await work(...given);
    } catch (error) {
      report(error.message);
    }
  };
  const list = safely(async () => setCollections(await ask("/api/collections")));
  useEffect(() => void list(), []);
  const add = safely(async (event) => {
    event.preventDefault();
    await ask("/api/collections", "POST", { name: name.trim() });
    setName("");
    await list();
  });
  const drop = (shown, path) => safely(async () => {
    if (!confirm(t("remove_sure", { name: shown }))) return;
    await ask(path, "DELETE");
    await list();
  });
  return html`<section class="page">
    <h2>${t("page_knowledge")}</h2>
    <p>${t("knowledge_why")}</p>
    <form class="buttons start" onSubmit=${add}>
      <input required maxlength="80" aria-label=${t("collection_name")} placeholder=${t("collection_name")} value=${name} onInput=${(event) => setName(event.target.value)} />
      <button class="main" disabled=${!name.trim()}>${t("collection_new")}</button>
    </form>
    ${!collections && html`<p>${t("waiting")}</p>`}
    ${collections?.length === 0 && html`<p>${t("no_collections")}</p>`}
    ${collections?.map((one) => html`<${Collection} key=${one.id} collection=${one} list=${list} drop=${drop} report=${report} />`)}
  </section>`;
}

function Collection({ collection, list, drop, report }) {
  const { id, name, files } = collection;
  const path = `/api/collections/${id}`;
  return html`<article class="pair" aria-label=${name}>
    <h3>${name}</h3>
    ${files.length > 0 && html`<div class="wide" tabindex="0" role="region" aria-label=${`${name}: ${t("file")}`}><table>
      <thead><tr><th scope="col">${t("file")}</th><th scope="col">${t("passages")}</th><th scope="col">${t("operation")}</th></tr></thead>
      <tbody>${files.map((file) => html`<tr key=${file.name}><td>${file.name}</td><td>${file.passages}</td>
        <td><button class="quiet" aria-label=${t("remove_it", { name: file.name })} onClick=${drop(file.name, `${path}/files?name=${encodeURIComponent(file.name)}`)}>×</button></td></tr>`)}</tbody>
    </table></div>`}
    <${Upload} path=${`${path}/files`} name=${name} onDone=${list} report=${report} />
    ${files.length > 0 && html`<${Search} path=${`${path}/search`} name=${name} report=${report} />`}
    <p class="buttons"><button class="quiet" aria-label=${t("remove_it", { name })} onClick=${drop(name, path)}>${t("remove")}</button></p>
  </article>`;
}

function Upload({ path, name, onDone, report }) {
  const [told, tell] = useState([]);
  const send = async (event) => {
    const lines = [];
    for (const file of event.target.files) {
      tell([...lines, { said: `${file.name} …` }]);
      try {
        const kept = await upload(file.name, file, path);
        lines.push({ said: t("file_kept", { name: kept.name, count: kept.passages }) });
      } catch (error) {
        lines.push({ said: error.message, bad: true });
        if (!(error instanceof Failure)) report(error.message);
      }
      tell([...lines]);
    }
    event.target.value = "";
    onDone();
  };
  return html`<label class="field"><span>${t("file_why")}</span><input type="file" multiple accept=".txt,.md,.markdown,.jsonl,.gz,.zst,.xz" aria-label=${t("file_add", { name })} onChange=${send} /></label>
    ${told.map(({ said, bad }) => html`<p role=${bad ? "alert" : "status"} class="plain">${said}</p>`)}`;
}

function Search({ path, name, report }) {
  const [query, setQuery] = useState("");
  const [found, setFound] = useState(null);
  const look = (event) => {
    event.preventDefault();
    ask(path, "POST", { query }).then(setFound, (error) => report(error.message));
  };
  return html`<form class="line" onSubmit=${look}>
      <input type="search" required maxlength="10000" aria-label=${t("look_in", { name })} placeholder=${t("look_in", { name })} value=${query} onInput=${(event) => setQuery(event.target.value)} />
      <button disabled=${!query.trim()}>${t("look")}</button>
    </form>
    ${found?.length === 0 && html`<p role="status">${t("nothing_found")}</p>`}
    ${found && html`<${Passages} passages=${found.map((one, place) => ({ ...one, number: place + 1 }))} scores />`}`;
}

// Passages that open at a click; with scores also those that the model was not given.
export function Passages({ passages, scores, label }) {
  const shown = scores ? passages : passages.filter(({ number }) => number);
  if (!shown.length) return null;
  return html`<ul class="passages" aria-label=${label ?? t("passages")}>${shown.map(({ number, file, place, text, score }) => html`<li key=${`${file} ${place} ${text}`}><details>
    <summary>${number ? `[${number}] ` : ""}${t("passage_line", { file, place })}${scores ? ` · ${score.toFixed(2)}` : ""}${number ? "" : ` · ${t("left_out")}`}</summary>
    <p class="plain">${text}</p>
  </details></li>`)}</ul>`;
}
