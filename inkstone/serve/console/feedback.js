// What the thumbs and the better answers come to: a preference set, as training reads it, and with a click a task from it.

import { html, useEffect, useState } from "/console/vendor/preact-htm-3.1.1.js";
import { upload } from "/console/api.js";
import { Icon } from "/console/icons.js";
import { t } from "/console/words.js";

export function Feedback({ models, report }) {
  const [lines, setLines] = useState(null);
  const [made, setMade] = useState(null);
  useEffect(() => {
    fetch("/api/preferences.jsonl")
      .then((response) => response.text())
      .then(setLines)
      .catch((error) => report(error.message));
  }, []);
  const make = () => {
    const now = new Date().toISOString().slice(0, 16).replace(/\D/g, "");
    upload(`feedback-${now}.jsonl`, lines).then(setMade, (error) => report(error.message));
  };
  if (lines === null) return html`<section class="page"><p>${t("waiting")}</p></section>`;
  const rows = lines.split("\n").filter(Boolean).map(JSON.parse);
  return html`<section class="page">
    <h2>${t("page_feedback")}</h2>
    <p>${t("feedback_why")}</p>
    <p class="buttons start">
      <button class="main" disabled=${!rows.length} onClick=${make}>${t("make_set", { count: rows.length })}</button>
      <a class="button plain-button" href="/api/preferences.jsonl" download>${t("download", { count: rows.length })}</a>
    </p>
    ${made && html`<p role="status">${t("uploaded", { name: made.name, kind: t("kind_preference"), rows: made.about.rows, faulty: made.about.faulty })} <a class="button" href=${`#/tune/new/data-${made.id}/${encodeURIComponent(rated(rows, models))}`}>${t("train_on_it")}</a></p>`}
    ${rows.map((row) => html`<article class="pair">
      <p class="plain"><strong>${row.messages.at(-1).content}</strong></p>
      <div class="beside">
        <section><h3><${Icon} name="up" /> ${t("chosen")}</h3><p class="plain">${row.chosen}</p></section>
        <section><h3><${Icon} name="down" /> ${t("rejected")}</h3><p class="plain">${row.rejected}</p></section>
      </div>
    </article>`)}
  </section>`;
}

// The model of this server whose answers people had most to say about.
function rated(rows, models) {
  const counts = models.map((name) => rows.filter(({ model }) => model === name).length);
  return models[counts.indexOf(Math.max(...counts))] ?? "";
}
