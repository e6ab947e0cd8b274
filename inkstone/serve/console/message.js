// One message: its text, what can be done with it, and how it came about.

import { html, useState } from "/console/vendor/preact-htm-3.1.1.js";
import { ask } from "/console/api.js";
import { Icon } from "/console/icons.js";
import { Passages } from "/console/knowledge.js";
import { Markdown } from "/console/markdown.js";
import { t } from "/console/words.js";

const seconds = (value) => (value === undefined || value === null ? "–" : `${value.toFixed(2)} s`);

export function Bubble({ message, siblings, busy, trace, act, avatar }) {
  const [editing, edit] = useState(null);
  const mine = message.role === "user";
  const resend = (event) => {
    event.preventDefault();
    edit(null);
    act.resend(message, editing);
  };
  if (editing !== null)
    return html`<form class="bubble mine" onSubmit=${resend}>
      <textarea rows="3" aria-label=${t("edit")} value=${editing} onInput=${(event) => edit(event.target.value)} />
      <p class="buttons"><button type="button" onClick=${() => edit(null)}>${t("cancel")}</button><button class="main" disabled=${!editing.trim()}>${t("send")}</button></p>
    </form>`;
  return html`<article class=${mine ? "bubble mine" : "bubble"} aria-label=${mine ? t("you") : message.model}>
    ${!mine && html`<header>${avatar} <span>${message.model}</span></header>`}
    ${mine ? html`<p class="plain">${message.content}</p>` : html`<${Markdown} text=${message.content} onCopy=${act.copy} copyLabel=${t("copy")} />`}
    ${message.figures?.passages && html`<${Citations} passages=${message.figures.passages} name=${message.figures.knowledge} />`}
    ${message.better && html`<blockquote class="better"><strong>${t("better")}</strong><${Markdown} text=${message.better} /></blockquote>`}
    <footer>
      <${Branches} message=${message} siblings=${siblings} act=${act} />
      <button class="quiet" title=${t("copy")} aria-label=${t("copy")} onClick=${() => act.copy(message.content)}><${Icon} name="copy" /></button>
      ${mine && html`<button class="quiet" title=${t("edit")} aria-label=${t("edit")} disabled=${busy} onClick=${() => edit(message.content)}><${Icon} name="pen" /></button>`}
      ${!mine && html`<${Thumb} sign=${1} message=${message} act=${act} /><${Thumb} sign=${-1} message=${message} act=${act} />`}
    </footer>
    ${!mine && trace && html`<${Trace} message=${message} turns=${act.turnsBefore(message)} />`}
  </article>`;
}

function Thumb({ sign, message, act }) {
  const label = t(sign > 0 ? "good" : "bad");
  const pressed = message.rating === sign;
  return html`<button class="quiet" title=${label} aria-label=${label} aria-pressed=${String(pressed)} onClick=${() => act.rate(message, pressed ? 0 : sign)}><${Icon} name=${sign > 0 ? "up" : "down"} /></button>`;
}

function Branches({ message, siblings, act }) {
  const place = siblings.indexOf(message);
  if (siblings.length < 2) return null;
  const go = (step) => () => act.show(siblings[place + step]);
  return html`<span class="branches">
    <button class="quiet" aria-label=${t("previous")} disabled=${place === 0} onClick=${go(-1)}>‹</button>
    ${place + 1}/${siblings.length}
    <button class="quiet" aria-label=${t("next")} disabled=${place === siblings.length - 1} onClick=${go(1)}>›</button>
  </span>`;
}

function Citations({ passages, name }) {
  const given = passages.filter(({ number }) => number).length;
  const said = given ? t("cited_from", { name }) : t(passages.length ? "no_room" : "nothing_in", { name });
  return html`<p class="faint">${said}</p><${Passages} passages=${passages} label=${said} />`;
}

function Trace({ message, turns }) {
  const [prompt, setPrompt] = useState(null);
  const figures = message.figures ?? {};
  const load = async () => {
    try {
      const passages = (figures.passages ?? []).filter(({ number }) => number);
      const { messages } = passages.length ? await ask("/api/ground", "POST", { messages: turns, passages }) : { messages: turns };
      setPrompt(await ask("/tokenize", "POST", { model: message.model, messages, drop_oldest: true, return_token_strs: true }));
    } catch (error) {
      setPrompt({ said: error.message });
    }
  };
  const rate = figures.tokens > 1 ? ((figures.tokens - 1) / (figures.seconds - figures.first)).toFixed(1) : "–";
  return html`<details class="trace" onToggle=${(event) => event.target.open && !prompt && load()}>
    <summary>${t("trace_line", { first: seconds(figures.first), all: seconds(figures.seconds), tokens: figures.tokens ?? "–", rate, why: figures.finish ?? "–" })}</summary>
    ${figures.passages?.length > 0 && html`<p>${t("retrieved", { count: figures.passages.length, name: figures.knowledge })}</p><${Passages} passages=${figures.passages} scores label=${t("retrieved", { count: figures.passages.length, name: figures.knowledge })} />`}
    ${prompt?.said && html`<p role="alert">${prompt.said}</p>`}
    ${prompt?.tokens && html`<p>${t("prompt_ids", { count: prompt.count })}</p>
      <p class="tokens">${prompt.tokens.map((id, place) => html`<span title=${id}>${prompt.token_strs[place]}</span>`)}</p>
      <p class="ids">${prompt.tokens.join(" ")}</p>`}
  </details>`;
}
