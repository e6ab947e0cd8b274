// The console: its frame with pages, language and theme. The page that is open is what comes after # in the address.

import { html, render, useEffect, useState } from "/console/vendor/preact-htm-3.1.1.js";
import { ask } from "/console/api.js";
import { Chat } from "/console/chat.js";
import { Feedback } from "/console/feedback.js";
import { Knowledge } from "/console/knowledge.js";
import { Evaluation, Models } from "/console/models.js";
import { Tune } from "/console/tune.js";
import { language, speak, t } from "/console/words.js";

const PAGES = { chat: Chat, knowledge: Knowledge, tune: Tune, models: Models, evaluation: Evaluation, feedback: Feedback };

function Console() {
  const [page, setPage] = useState(pageOf());
  const [known, setKnown] = useState({ page: null, models: [] });
  const [said, report] = useState("");
  const [, again] = useState(0);
  useEffect(() => {
    const turn = () => setPage(pageOf());
    addEventListener("hashchange", turn);
  }, []);
  // Asked again on every page, and none offered before: a task may have made one more.
  useEffect(() => {
    ask("/v1/models").then(({ data }) => setKnown({ page, models: data.filter(({ chat }) => chat).map(({ id }) => id) }), (error) => report(error.message));
  }, [page]);
  const other = language === "zh" ? "en" : "zh";
  const Page = PAGES[page];
  const models = known.page === page ? known.models : [];
  return html`<header class="bar">
      <h1>Inkstone</h1>
      <nav aria-label=${t("pages")}>${Object.keys(PAGES).map((name) => html`<a href=${`#/${name}`} aria-current=${name === page ? "page" : null}>${t(`page_${name}`)}</a>`)}</nav>
      <button class="quiet" lang=${other} onClick=${() => speak(other).then(() => again((count) => count + 1))}>${other === "en" ? "English" : "中文"}</button>
      <button class="quiet" aria-label=${t("theme")} title=${t("theme")} onClick=${turnTheme}>◐</button>
    </header>
    ${said && html`<p class="alert" role="alert"><span>${said}</span> <button class="quiet" aria-label=${t("close")} onClick=${() => report("")}>×</button></p>`}
    <main><${Page} models=${models} report=${report} key=${page} /></main>`;
}

function pageOf() {
  const name = location.hash.split("/")[1];
  return name in PAGES ? name : "chat";
}

function turnTheme() {
  const dark = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  show(dark === "dark" ? "light" : "dark");
}

function show(theme) {
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
}

if (localStorage.getItem("theme")) show(localStorage.getItem("theme"));
await speak(localStorage.getItem("language"));
render(html`<${Console} />`, document.body);
