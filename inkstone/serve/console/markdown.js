// A model's answer as nodes: headings, lists, quotes, tables, code, formulas, emphasis, links. No HTML is ever parsed,
// so nothing that a model or a user writes can become an element or an attribute of its choice.

import { html } from "/console/vendor/preact-htm-3.1.1.js";
import { formula } from "/console/formula.js";

const INLINE =
  /(`+)(?<code>[\s\S]*?[^`])\1(?!`)|\\\((?<round>.+?)\\\)|\$(?<dollar>[^\s$](?:[^$\n]*[^\s$])?)\$(?!\d)|\*\*(?<strong>.+?)\*\*|\*(?<em>[^\s*](?:[^*\n]*[^\s*])?)\*|~~(?<gone>.+?)~~|\[(?<label>[^\]\n]+)\]\((?<url>https?:\/\/[^\s)]+)\)/;

export function inline(text) {
  const nodes = [];
  while (text) {
    const found = INLINE.exec(text);
    if (!found) break;
    if (found.index) nodes.push(text.slice(0, found.index));
    nodes.push(piece(found.groups));
    text = text.slice(found.index + found[0].length);
  }
  return text ? [...nodes, text] : nodes;
}

function piece({ code, round, dollar, strong, em, gone, label, url }) {
  if (code !== undefined) return html`<code>${code}</code>`;
  if (round ?? dollar) return formula(round ?? dollar, false);
  if (strong) return html`<strong>${inline(strong)}</strong>`;
  if (em) return html`<em>${inline(em)}</em>`;
  if (gone) return html`<s>${inline(gone)}</s>`;
  return html`<a href=${url} rel="noopener noreferrer" target="_blank">${label}</a>`;
}

export function Markdown({ text, onCopy, copyLabel }) {
  return html`<div class="markdown">${blocks(text.split("\n"), { onCopy, copyLabel, depth: 0 })}</div>`;
}

const DEEPEST = 12;

function blocks(lines, tools) {
  const nodes = [];
  for (let at = 0; at < lines.length; ) {
    const read = KINDS.map((kind) => kind(lines, at, tools)).find(Boolean);
    if (read.node) nodes.push(read.node);
    at = read.next;
  }
  return nodes;
}

const deeper = (tools) => ({ ...tools, depth: tools.depth + 1 });

// Each reads a block that begins at `at`, or gives null.
const KINDS = [blank, fence, display, heading, rule, quote, list, table, paragraph];

function blank(lines, at) {
  return lines[at].trim() ? null : { next: at + 1 };
}

function fence(lines, at, { onCopy, copyLabel }) {
  const begin = /^\s*(```+|~~~+)\s*([\w+-]*)/.exec(lines[at]);
  if (!begin) return null;
  let end = at + 1;
  while (end < lines.length && !lines[end].trim().startsWith(begin[1])) end += 1;
  const code = lines.slice(at + 1, end).join("\n");
  const copy = onCopy && html`<button class="quiet" onClick=${() => onCopy(code)}>${copyLabel}</button>`;
  const node = html`<figure class="code"><figcaption>${begin[2]} ${copy}</figcaption><pre tabindex="0"><code>${code}</code></pre></figure>`;
  return { node, next: end + 1 };
}

function display(lines, at) {
  const begin = /^\s*(\$\$|\\\[)/.exec(lines[at]);
  if (!begin) return null;
  const close = begin[1] === "$$" ? "$$" : "\\]";
  const rest = lines.slice(at).join("\n").trimStart().slice(2);
  const size = rest.indexOf(close);
  if (size < 0) return null;
  return { node: formula(rest.slice(0, size), true), next: at + rest.slice(0, size).split("\n").length };
}

function heading(lines, at) {
  const found = /^(#{1,6})\s+(.*?)\s*#*$/.exec(lines[at]);
  // A reply's headings stand below the page's own.
  return found && { node: html`<p class=${`heading h${found[1].length}`} role="heading" aria-level=${Math.min(found[1].length + 2, 6)}>${inline(found[2])}</p>`, next: at + 1 };
}

function rule(lines, at) {
  return /^\s*([-*_])(\s*\1){2,}\s*$/.test(lines[at]) ? { node: html`<hr />`, next: at + 1 } : null;
}

function quote(lines, at, tools) {
  let end = at;
  while (end < lines.length && /^\s*>/.test(lines[end])) end += 1;
  if (end === at || tools.depth > DEEPEST) return null;
  const inner = lines.slice(at, end).map((line) => line.replace(/^\s*> ?/, ""));
  return { node: html`<blockquote>${blocks(inner, deeper(tools))}</blockquote>`, next: end };
}

const ITEM = /^(\s*)([-*+]|\d{1,9}[.)、])\s+(.*)$/;

function list(lines, at, tools) {
  const first = ITEM.exec(lines[at]);
  if (!first || tools.depth > DEEPEST) return null;
  const indent = first[1].length;
  const ordered = /\d/.test(first[2]);
  const items = [];
  let end = at;
  for (; end < lines.length; end += 1) {
    const found = ITEM.exec(lines[end]);
    const begins = found && found[1].length <= indent + 1;
    if (begins && (/\d/.test(found[2]) !== ordered || found[1].length < indent)) break;
    if (begins) items.push([found[3]]);
    else if (/^\s{2,}\S/.test(lines[end])) items.at(-1).push(lines[end].replace(/^\s{1,4}/, ""));
    else break;
  }
  const made = items.map((item) => html`<li>${item.length > 1 ? [inline(item[0]), blocks(item.slice(1), deeper(tools))] : inline(item[0])}</li>`);
  return { node: ordered ? html`<ol start=${parseInt(first[2])}>${made}</ol>` : html`<ul>${made}</ul>`, next: end };
}

function table(lines, at) {
  const dashes = lines[at + 1] ?? "";
  if (!lines[at].includes("|") || !/^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/.test(dashes) || !dashes.includes("|")) return null;
  const cells = (line) => line.trim().replace(/^\||\|$/g, "").split("|").map((cell) => inline(cell.trim()));
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const head = cells(lines[at]).map((cell) => html`<th>${cell}</th>`);
  const rows = lines.slice(at + 2, end).map((line) => html`<tr>${cells(line).map((cell) => html`<td>${cell}</td>`)}</tr>`);
  return { node: html`<div class="wide" tabindex="0"><table><thead><tr>${head}</tr></thead><tbody>${rows}</tbody></table></div>`, next: end };
}

function paragraph(lines, at, tools) {
  let end = at + 1;
  while (end < lines.length && !KINDS.slice(0, -1).some((kind) => kind(lines, end, tools))) end += 1;
  const nodes = lines.slice(at, end).flatMap((line, place) => (place ? [html`<br />`, ...inline(line)] : inline(line)));
  return { node: html`<p>${nodes}</p>`, next: end };
}
