// What the thumbs and the better answers come to: a preference set, as training reads it.

import { html, useEffect, useState } from "/console/vendor/preact-htm-3.1.1.js";
import { Icon } from "/console/icons.js";
import { t } from "/console/words.js";

export function Feedback({ report }) {
  const [rows, setRows] = useState(null);
  useEffect(() => {
    fetch("/api/preferences.jsonl")
      .then((response) => response.text())
      .then((text) => setRows(text.split("\n").filter(Boolean).map(JSON.parse)))
      .catch((error) => report(error.message));
  }, []);
  if (!rows) return html`<section class="page"><p>${t("waiting")}</p></section>`;
  return html`<section class="page">
    <h2>${t("page_feedback")}</h2>
    <p>${t("feedback_why")}</p>
    <p><a class="button" href="/api/preferences.jsonl" download>${t("download", { count: rows.length })}</a></p>
    ${rows.map((row) => html`<article class="pair">
      <p class="plain"><strong>${row.messages.at(-1).content}</strong></p>
      <div class="beside">
        <section><h3><${Icon} name="up" /> ${t("chosen")}</h3><p class="plain">${row.chosen}</p></section>
        <section><h3><${Icon} name="down" /> ${t("rejected")}</h3><p class="plain">${row.rejected}</p></section>
      </div>
    </article>`)}
  </section>`;
}
