// What the thumbs and the better answers come to: a preference set and a verdict set, as training reads them, and with a
// click a task from either.

import { html, useEffect, useState } from "/console/vendor/preact-htm-3.1.1.js";
import { upload } from "/console/api.js";
import { Icon } from "/console/icons.js";
import { t } from "/console/words.js";

const rowsOf = (lines) => lines.split("\n").filter(Boolean).map(JSON.parse);

export function Feedback({ models, report }) {
  const [lines, setLines] = useState(null);
  useEffect(() => {
    const read = (name) => fetch(`/api/${name}.jsonl`).then((response) => response.text());
    Promise.all([read("preferences"), read("verdicts")]).then(setLines, (error) => report(error.message));
  }, []);
  if (lines === null) return html`<section class="page"><p>${t("waiting")}</p></section>`;
  const [pairs, verdicts] = lines.map(rowsOf);
  const good = verdicts.filter(({ label }) => label).length;
  const oneSided = verdicts.length > 0 && (good === 0 || good === verdicts.length);
  return html`<section class="page">
    <h2>${t("page_feedback")}</h2>
    <p>${t("feedback_why")}</p>
    <h3>${t("pairs_title")}</h3>
    <${SetMaker} name="feedback" file="preferences" kind="preference" lines=${lines[0]} rows=${pairs} models=${models} report=${report}
      make=${t("make_set", { count: pairs.length })} fetch=${t("download", { count: pairs.length })} train=${t("train_on_it")} />
    <h3>${t("thumbs_title")}</h3>
    <p>${t("thumbs_why", { good, bad: verdicts.length - good })} ${oneSided && html`<strong>${t("thumbs_one_sided")}</strong>`}</p>
    <${SetMaker} name="thumbs" file="verdicts" kind="verdict" lines=${lines[1]} rows=${verdicts} models=${models} report=${report}
      make=${t("make_thumbs", { count: verdicts.length })} fetch=${t("download_thumbs", { count: verdicts.length })} train=${t("train_on_thumbs")} />
    ${pairs.map((row) => html`<article class="pair">
      <p class="plain"><strong>${row.messages.at(-1).content}</strong></p>
      <div class="beside">
        <section><h3><${Icon} name="up" /> ${t("chosen")}</h3><p class="plain">${row.chosen}</p></section>
        <section><h3><${Icon} name="down" /> ${t("rejected")}</h3><p class="plain">${row.rejected}</p></section>
      </div>
    </article>`)}
  </section>`;
}

// The buttons that keep the lines as a data set, and that then go on to a task from it.
function SetMaker({ name, file, kind, lines, rows, models, report, make, fetch: download, train }) {
  const [made, setMade] = useState(null);
  const keep = () => {
    const now = new Date().toISOString().slice(0, 16).replace(/\D/g, "");
    upload(`${name}-${now}.jsonl`, lines).then(setMade, (error) => report(error.message));
  };
  return html`<p class="buttons start">
      <button class="main" disabled=${!rows.length} onClick=${keep}>${make}</button>
      <a class="button plain-button" href=${`/api/${file}.jsonl`} download>${download}</a>
    </p>
    ${made && html`<p role="status">${t("uploaded", { name: made.name, kind: t(`kind_${kind}`), rows: made.about.rows, faulty: made.about.faulty })} <a class="button" href=${`#/tune/new/data-${made.id}/${encodeURIComponent(rated(rows, models))}`}>${train}</a></p>`}`;
}

// The model of this server whose answers people had most to say about.
function rated(rows, models) {
  const counts = models.map((name) => rows.filter(({ model }) => model === name).length);
  return models[counts.indexOf(Math.max(...counts))] ?? "";
}
