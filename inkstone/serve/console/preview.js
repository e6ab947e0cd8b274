// A data set as a model will see it: its first rows, what is learned of them, counts, lengths and every fault.

import { html, useEffect, useState } from "/console/vendor/preact-htm-3.1.1.js";
import { ask } from "/console/api.js";
import { Field, Window } from "/console/dialogs.js";
import { t } from "/console/words.js";

const LENGTHS = { median: "median", "95 %": "share_95", longest: "longest" };

export function Preview({ data, models, model, onClose }) {
  const [wanted, want] = useState({ model, length: "" });
  const [told, tell] = useState(null);
  useEffect(() => {
    let left = false;
    tell(null);
    const asked = new URLSearchParams({ model: wanted.model, ...(wanted.length && { length: wanted.length }) });
    ask(`/api/datasets/${data.id}/preview?${asked}`).then((found) => left || tell(found), (error) => left || tell({ said: error.message }));
    return () => void (left = true);
  }, [wanted]);
  const set = (name) => (event) => want({ ...wanted, [name]: event.target.value });
  return html`<${Window} title=${t("preview_title", { name: data.name })} onClose=${onClose} wide>
    <p>${t("preview_why")}</p>
    <div class="numbers">
      <${Field} label=${t("model")}><select value=${wanted.model} onChange=${set("model")}>${models.map((name) => html`<option value=${name}>${name}</option>`)}</select><//>
      <${Field} label=${t("row_length")}><input type="number" min="16" max="1048576" placeholder=${told?.sequence_length ?? ""} value=${wanted.length} onChange=${set("length")} /><//>
    </div>
    ${!told && html`<p role="status">${t("waiting")}</p>`}
    ${told?.said && html`<p role="alert" class="plain">${told.said}</p>`}
    ${told?.counts && html`<${Figures} counts=${told.counts} lengths=${told.lengths} /><${Faults} faults=${told.faults} all=${told.counts.malformed_rows} />
      <p class="tokens"><mark>${t("learned")}</mark> ${t("learned_why")} <span class="control">${t("control")}</span></p>
      ${told.rows.map((row, place) => html`<${Row} key=${place} row=${row} />`)}`}
  <//>`;
}

function Figures({ counts: { rows_encoded, ...counts }, lengths }) {
  const share = counts.tokens ? ` (${Math.round((100 * counts.learned_tokens) / counts.tokens)} %)` : "";
  return html`${rows_encoded !== undefined && html`<p role="status">${t("preview_some", { some: rows_encoded, all: counts.rows })}</p>`}
    <dl class="facts">
      ${Object.entries(counts).map(([name, count]) => html`<dt>${t(`count_${name}`)}</dt><dd>${count.toLocaleString()}${name === "learned_tokens" && share}</dd>`)}
      <dt>${t("lengths")}</dt><dd>${Object.entries(lengths).map(([name, length]) => `${t(LENGTHS[name])} ${length.toLocaleString()}`).join(" · ")}</dd>
    </dl>`;
}

function Faults({ faults, all }) {
  if (!faults.length) return null;
  return html`<details open><summary>${t("faults", { count: all })}${faults.length < all && ` – ${t("faults_first", { count: faults.length })}`}</summary>
    <ul class="faults" tabindex="0" aria-label=${t("faults", { count: all })}>${faults.map((fault) => html`<li>${fault}</li>`)}</ul>
  </details>`;
}

// What is learned is coloured and underlined, and said where it begins and ends to those who hear it.
function Row({ row: { number, side, tokens, shown, pieces } }) {
  const title = [t("row_of", { number }), side && t(side), t("tokens_of", { count: tokens })].filter(Boolean).join(" · ");
  return html`<article class="pair" aria-label=${title}>
    <h3>${title}${shown < tokens && ` (${t("tokens_first", { count: shown })})`}</h3>
    <p class="plain">${pieces.map(({ text, learned, control }, place) => {
      const begins = learned && !pieces[place - 1]?.learned, ends = learned && !pieces[place + 1]?.learned;
      const shown = control ? html`<span class="control">${text}</span>` : text;
      return html`${begins && html`<span class="heard">${t("learned_begins")}</span>`}${learned ? html`<mark>${shown}</mark>` : shown}${ends && html`<span class="heard">${t("learned_ends")}</span>`}`;
    })}</p>
  </article>`;
}
