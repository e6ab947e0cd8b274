// The chat: conversations at the left, the one that is open, the composer; one model or two side by side.

import { html, useEffect, useRef, useState } from "/console/vendor/preact-htm-3.1.1.js";
import { answer, ask } from "/console/api.js";
import { AssistantWindow, BetterWindow, EMPTY } from "/console/dialogs.js";
import { Icon } from "/console/icons.js";
import { Bubble } from "/console/message.js";
import { Markdown } from "/console/markdown.js";
import { childrenOf, newestEnd, pathTo, turnsOf } from "/console/tree.js";
import { t } from "/console/words.js";

const NOBODY = { id: null, name: "", avatar: "墨", system: "", model: "", sampling: {} };

export function Chat({ models, report }) {
  const [conversations, setConversations] = useState([]);
  const [assistants, setAssistants] = useState([]);
  const [assistantId, chooseAssistant] = useState(null);
  const [search, setSearch] = useState("");
  const [open, setOpen] = useState({ id: null, leaf: null, messages: [] });
  const [picked, pick] = useState([localStorage.getItem("model") ?? "", localStorage.getItem("beside") ?? ""]);
  const [collections, setCollections] = useState([]);
  const [knowledge, setKnowledge] = useState(Number(localStorage.getItem("knowledge")) || null);
  const [live, setLive] = useState([]);
  const [window_, setWindow] = useState(null);
  const [trace, setTrace] = useState(false);
  const [aside, showAside] = useState(false);
  const stopper = useRef(null);
  const end = useRef(null);

  const assistant = assistants.find((one) => one.id === assistantId) ?? NOBODY;
  const model = [assistant.model, picked[0], models[0]].find((name) => models.includes(name)) ?? "";
  const asked = [model, picked[1]].filter((name, place, all) => models.includes(name) && all.indexOf(name) === place);
  const scope = collections.find(({ id }) => id === knowledge);
  const busy = live.length > 0;
  const path = pathTo(open.messages, open.leaf);

  const safely = (work) => async (...given) => {
    try {
      return await work(...given);
    } catch (error) {
      report(error.message);
    }
  };
  const list = safely(async (text = search) => setConversations(await ask(`/api/conversations?search=${encodeURIComponent(text)}`)));
  const who = safely(async () => setAssistants(await ask("/api/assistants")));
  useEffect(() => void who(), []);
  useEffect(() => void safely(async () => setCollections(await ask("/api/collections")))(), []);
  useEffect(() => void list(search), [search]);
  useEffect(() => {
    const follow = safely(async () => {
      const number = Number(location.hash.split("/")[2]) || null;
      const found = number ? await ask(`/api/conversations/${number}`) : { id: null, leaf: null, messages: [] };
      setOpen(found);
      if (found.id) chooseAssistant(found.assistant);
      showAside(false);
    });
    follow();
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  useEffect(() => end.current?.scrollIntoView({ block: "end" }), [live, open.leaf, open.id]);

  async function replyTo(conversation, user) {
    const stop = (stopper.current = new AbortController());
    const turns = turnsOf(pathTo(conversation.messages, user.id), assistant.system);
    const texts = asked.map((name) => ({ model: name, text: "" }));
    setLive(texts);
    const one = async (name, place) => {
      const figures = { first: null, seconds: 0, tokens: 0, prompt: 0, finish: "cancelled" };
      const sampling = Object.fromEntries(Object.entries(assistant.sampling).filter(([, value]) => value !== null));
      let messages = turns;
      if (scope) {
        const grounded = await ask(`/api/collections/${scope.id}/ground`, "POST", { model: name, messages: turns, max_tokens: sampling.max_tokens ?? null });
        messages = grounded.messages;
        Object.assign(figures, { knowledge: scope.name, passages: grounded.passages });
      }
      const begun = performance.now();
      const since = () => (performance.now() - begun) / 1000;
      try {
        for await (const chunk of answer({ model: name, messages, drop_oldest: true, ...sampling }, stop.signal)) {
          const choice = chunk.choices[0];
          if (choice?.delta.content) {
            figures.first ??= since();
            texts[place] = { model: name, text: texts[place].text + choice.delta.content };
            setLive([...texts]);
          }
          figures.finish = choice?.finish_reason ?? figures.finish;
          if (chunk.usage) Object.assign(figures, { tokens: chunk.usage.completion_tokens, prompt: chunk.usage.prompt_tokens });
        }
      } catch (error) {
        if (error.name !== "AbortError") report(error.message);
        if (!texts[place].text) return null;
      }
      figures.seconds = since();
      const said = { parent: user.id, role: "assistant", content: texts[place].text, model: name, system: assistant.system, figures };
      return ask(`/api/conversations/${conversation.id}/messages`, "POST", said);
    };
    const made = (await Promise.all(asked.map(safely(one)))).filter(Boolean);
    stopper.current = null;
    setLive([]);
    if (made.length) {
      // Somebody may have opened another conversation meanwhile.
      setOpen((now) => (now.id === conversation.id ? { ...now, leaf: made[0].id, messages: [...conversation.messages, ...made] } : now));
      await ask(`/api/conversations/${conversation.id}`, "PATCH", { leaf: made[0].id });
    }
    list();
  }

  const say = safely(async (content, parent) => {
    let conversation = open;
    if (!open.id) {
      const made = await ask("/api/conversations", "POST", { title: content.trim().slice(0, 60), assistant: assistant.id });
      conversation = { ...made, messages: [] };
      history.replaceState(null, "", `#/chat/${made.id}`);
    }
    const user = await ask(`/api/conversations/${conversation.id}/messages`, "POST", { parent, role: "user", content });
    conversation = { ...conversation, leaf: user.id, messages: [...conversation.messages, user] };
    setOpen(conversation);
    await replyTo(conversation, user);
  });

  const again = safely(() => {
    const user = path.filter((one) => one.role === "user").at(-1);
    setOpen({ ...open, leaf: user.id });
    return replyTo(open, user);
  });

  const changed = (message) => setOpen((now) => ({ ...now, messages: now.messages.map((one) => (one.id === message.id ? message : one)) }));
  const act = {
    copy: safely((text) => navigator.clipboard.writeText(text)),
    resend: (message, text) => say(text, message.parent),
    turnsBefore: (message) => turnsOf(pathTo(open.messages, message.parent), message.system),
    show: safely(async (message) => {
      const leaf = newestEnd(open.messages, message.id);
      setOpen({ ...open, leaf });
      await ask(`/api/conversations/${open.id}`, "PATCH", { leaf });
    }),
    rate: safely(async (message, rating) => {
      changed(await ask(`/api/messages/${message.id}`, "PATCH", { rating }));
      if (rating < 0) setWindow({ better: message });
    }),
  };
  const pickScope = (event) => {
    setKnowledge(Number(event.target.value) || null);
    localStorage.setItem("knowledge", event.target.value);
  };
  const fresh = () => (location.hash === "#/chat" ? setOpen({ id: null, leaf: null, messages: [] }) : (location.hash = "#/chat"));
  const forget = safely(async (conversation) => {
    if (!confirm(t("remove_sure", { name: conversation.title }))) return;
    await ask(`/api/conversations/${conversation.id}`, "DELETE");
    if (conversation.id === open.id) fresh();
    list();
  });
  const keepAssistant = safely(async ({ id, ...kept }) => {
    const made = await (id ? ask(`/api/assistants/${id}`, "PATCH", kept) : ask("/api/assistants", "POST", kept));
    await who();
    await choose(made.id);
    setWindow(null);
  });
  const dropAssistant = safely(async ({ id }) => {
    await ask(`/api/assistants/${id}`, "DELETE");
    chooseAssistant(null);
    setWindow(null);
    who();
  });
  const choose = safely(async (id) => {
    chooseAssistant(id);
    if (open.id) await ask(`/api/conversations/${open.id}`, "PATCH", { assistant: id });
  });
  const better = safely(async (message, text) => {
    changed(await ask(`/api/messages/${message.id}`, "PATCH", { better: text, rating: -1 }));
    setWindow(null);
  });
  const pickModel = (place) => (event) => {
    localStorage.setItem(["model", "beside"][place], event.target.value);
    pick(picked.with(place, event.target.value));
  };

  const compared = asked.length > 1 && path.length && path.at(-1).role === "assistant" ? pairOf(open.messages, path.at(-1), asked) : null;
  const shown = compared ? path.slice(0, -1) : path;
  const bubble = (message) => html`<${Bubble} key=${message.id} message=${message} siblings=${childrenOf(open.messages, message.parent)} busy=${busy} trace=${trace} act=${act} avatar=${assistant.avatar} />`;

  return html`<div class="chat">
    <button class="opener" aria-expanded=${String(aside)} aria-controls="history" onClick=${() => showAside(!aside)}>${t("history")}</button>
    <nav id="history" class=${aside ? "shown" : ""} aria-label=${t("history")}>
      <button class="main" onClick=${fresh}><${Icon} name="plus" /> ${t("new_chat")}</button>
      <input type="search" placeholder=${t("search")} aria-label=${t("search")} value=${search} onInput=${(event) => setSearch(event.target.value)} />
      <ul>${conversations.map((one) => html`<li key=${one.id}>
        <a href=${`#/chat/${one.id}`} aria-current=${one.id === open.id ? "page" : null}>${one.title || t("untitled")}</a>
        <button class="quiet" aria-label=${t("remove_it", { name: one.title })} onClick=${() => forget(one)}>×</button>
      </li>`)}</ul>
    </nav>
    <section class="talk">
      <div class="choices">
        <label>${t("assistant")} <select value=${assistantId ?? ""} onChange=${(event) => choose(Number(event.target.value) || null)}>
          <option value="">${t("nobody")}</option>
          ${assistants.map((one) => html`<option value=${one.id}>${one.avatar} ${one.name}</option>`)}
        </select></label>
        <button class="quiet" aria-label=${t("edit_assistant")} title=${t("edit_assistant")} onClick=${() => setWindow({ assistant: assistant.id ? assistant : EMPTY })}><${Icon} name=${assistant.id ? "pen" : "plus"} /></button>
        <label>${t("model")} <select value=${model} disabled=${models.includes(assistant.model)} onChange=${pickModel(0)}>${models.map((name) => html`<option value=${name}>${name}</option>`)}</select></label>
        ${models.length > 1 && html`<label>${t("beside")} <select value=${picked[1]} onChange=${pickModel(1)}>
          <option value="">${t("none")}</option>${models.filter((name) => name !== model).map((name) => html`<option value=${name}>${name}</option>`)}
        </select></label>`}
        ${collections.length > 0 && html`<label>${t("scope")} <select value=${scope?.id ?? ""} onChange=${pickScope}>
          <option value="">${t("model_alone")}</option>${collections.map((one) => html`<option value=${one.id}>${one.name}</option>`)}
        </select></label>`}
        <label><input type="checkbox" checked=${trace} onChange=${(event) => setTrace(event.target.checked)} /> ${t("trace")}</label>
      </div>
      <div class="messages" role="log" aria-label=${t("messages")} tabindex="0">
        ${!path.length && html`<p class="hello">${assistant.avatar} ${t("hello")}</p>`}
        ${shown.map(bubble)}
        ${compared && !busy && html`<div class="beside">${compared.map(bubble)}</div>`}
        ${busy && html`<div class=${live.length > 1 ? "beside" : ""}>${live.map((one) => html`<article class="bubble" aria-busy="true" aria-label=${one.model}>
          <header>${assistant.avatar} <span>${one.model}</span></header>
          ${one.text ? html`<${Markdown} text=${one.text} />` : html`<p class="waiting">${t("waiting")}</p>`}
        </article>`)}</div>`}
        <span ref=${end} />
      </div>
      <${Composer} busy=${busy} ready=${Boolean(model)} onSay=${(text) => say(text, open.leaf)} onStop=${() => stopper.current?.abort()}
        onAgain=${path.length ? again : null} onReset=${path.length ? fresh : null} />
    </section>
    ${window_?.assistant && html`<${AssistantWindow} assistant=${window_.assistant} models=${models} onSave=${keepAssistant} onRemove=${dropAssistant} onClose=${() => setWindow(null)} />`}
    ${window_?.better && html`<${BetterWindow} message=${window_.better} onSave=${(text) => better(window_.better, text)} onClose=${() => setWindow(null)} />`}
  </div>`;
}

// The newest answer of each model to the same message, or null where one of them has none.
function pairOf(messages, last, names) {
  const siblings = childrenOf(messages, last.parent);
  const found = names.map((name) => siblings.findLast((one) => one.model === name));
  return found.every(Boolean) ? found : null;
}

function Composer({ busy, ready, onSay, onStop, onAgain, onReset }) {
  const [text, setText] = useState("");
  const send = (event) => {
    event.preventDefault();
    if (busy || !ready || !text.trim()) return;
    onSay(text);
    setText("");
  };
  // Enter that ends the choice of a Chinese character sends nothing.
  const key = (event) => event.key === "Enter" && !event.shiftKey && !event.isComposing && send(event);
  return html`<form class="composer" onSubmit=${send}>
    <p class="buttons">
      <button type="button" disabled=${busy || !onAgain} onClick=${onAgain}><${Icon} name="again" /> ${t("again")}</button>
      <button type="button" disabled=${busy || !onReset} onClick=${onReset}>${t("reset")}</button>
    </p>
    <div class="line">
      <textarea rows="2" placeholder=${t("say")} aria-label=${t("say")} value=${text} onInput=${(event) => setText(event.target.value)} onKeyDown=${key} />
      ${busy ? html`<button type="button" class="main" onClick=${onStop}>■ ${t("stop")}</button>` : html`<button class="main" disabled=${!ready || !text.trim()}>↵ ${t("send")}</button>`}
    </div>
  </form>`;
}
