// The windows over the page: an assistant, a better answer. One with nothing to save has a button that closes it.

import { html, useEffect, useRef, useState } from "/console/vendor/preact-htm-3.1.1.js";
import { t } from "/console/words.js";

export function Window({ title, onClose, onSave, children, remove, save = t("save"), ready = true, wide }) {
  const place = useRef();
  useEffect(() => place.current.showModal(), []);
  const send = (event) => (event.preventDefault(), onSave?.());
  return html`<dialog ref=${place} class=${wide ? "wider" : ""} onClose=${onClose} aria-labelledby="window-title">
    <form onSubmit=${send}>
      <h2 id="window-title">${title}</h2>
      ${children}
      <p class="buttons">
        ${remove && html`<button type="button" class="quiet" onClick=${remove}>${t("remove")}</button>`}
        <button type="button" onClick=${() => place.current.close()}>${t(onSave ? "cancel" : "close")}</button>
        ${onSave && html`<button class="main" disabled=${!ready}>${save}</button>`}
      </p>
    </form>
  </dialog>`;
}

export function Field({ label, children }) {
  return html`<label class="field"><span>${label}</span>${children}</label>`;
}

export const EMPTY = { name: "", avatar: "墨", system: "", model: "", sampling: {} };

export function AssistantWindow({ assistant, models, onSave, onClose, onRemove }) {
  const [kept, keep] = useState(assistant);
  const set = (name) => (event) => keep({ ...kept, [name]: event.target.value });
  const number = (name) => (event) => {
    const value = event.target.value;
    keep({ ...kept, sampling: { ...kept.sampling, [name]: value === "" ? null : Number(value) } });
  };
  const numbers = [
    ["temperature", "0", "5", "0.05"],
    ["top_p", "0.01", "1", "0.01"],
    ["max_tokens", "1", "1048576", "1"],
    ["seed", "0", "9007199254740991", "1"],
  ];
  const remove = assistant.id && (() => onRemove(assistant));
  return html`<${Window} title=${t("assistant")} onClose=${onClose} onSave=${() => onSave(kept)} remove=${remove}>
    <${Field} label=${t("name")}><input required maxlength="80" value=${kept.name} onInput=${set("name")} /><//>
    <${Field} label=${t("avatar")}><input maxlength="8" value=${kept.avatar} onInput=${set("avatar")} /><//>
    <${Field} label=${t("system")}><textarea rows="4" value=${kept.system} onInput=${set("system")} /><//>
    <${Field} label=${t("model")}>
      <select value=${kept.model} onChange=${set("model")}>
        <option value="">${t("any_model")}</option>
        ${models.map((name) => html`<option value=${name}>${name}</option>`)}
      </select>
    <//>
    <div class="numbers">
      ${numbers.map(([name, min, max, step]) => html`<${Field} label=${t(name)}>
        <input type="number" min=${min} max=${max} step=${step} placeholder=${t("own")} value=${kept.sampling[name] ?? ""} onInput=${number(name)} />
      <//>`)}
    </div>
  <//>`;
}

export function BetterWindow({ message, onSave, onClose }) {
  const [text, setText] = useState(message.better ?? message.content);
  const changed = text.trim() && text.trim() !== message.content.trim();
  return html`<${Window} title=${t("better_title")} onClose=${onClose} onSave=${() => onSave(changed ? text : null)}>
    <p>${t("better_why")}</p>
    <${Field} label=${t("better")}><textarea rows="8" value=${text} onInput=${(event) => setText(event.target.value)} /><//>
  <//>`;
}
