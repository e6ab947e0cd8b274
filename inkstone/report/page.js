// Turns lists of samples into pages and lists of drawings into tabs. Without it the page shows them all.
"use strict";
function button(text, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.addEventListener("click", act);
  return made;
}

for (const pager of document.querySelectorAll(".pager")) {
  const pages = [...pager.children];
  if (pages.length < 2) continue;
  let at = 0;
  const where = document.createElement("span");
  where.className = "soft";
  where.setAttribute("aria-live", "polite");
  const show = (wanted) => {
    at = (wanted + pages.length) % pages.length;
    pages.forEach((page, place) => { page.hidden = place !== at; });
    where.textContent = `${at + 1} of ${pages.length}`;
  };
  const bar = document.createElement("div");
  bar.className = "turn";
  bar.append(button("\u2039 Previous", () => show(at - 1)), where, button("Next \u203a", () => show(at + 1)));
  pager.prepend(bar);
  pager.setAttribute("role", "group");
  pager.tabIndex = 0;
  pager.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (step) { event.preventDefault(); show(at + step); }
  });
  show(0);
}

for (const tabs of document.querySelectorAll(".tabs")) {
  const panels = [...tabs.children];
  if (panels.length < 2) continue;
  const list = document.createElement("div");
  list.className = "tablist";
  list.setAttribute("role", "tablist");
  const choose = (chosen, focus) => panels.forEach((panel, place) => {
    const tab = list.children[place];
    panel.hidden = place !== chosen;
    tab.setAttribute("aria-selected", String(place === chosen));
    tab.tabIndex = place === chosen ? 0 : -1;
    if (focus && place === chosen) tab.focus();
  });
  panels.forEach((panel, place) => {
    const tab = button(panel.dataset.label, () => choose(place));
    tab.setAttribute("role", "tab");
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-label", panel.dataset.label);
    list.append(tab);
  });
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const at = [...list.children].indexOf(document.activeElement);
    if (step && at >= 0) { event.preventDefault(); choose((at + step + panels.length) % panels.length, true); }
  });
  tabs.prepend(list);
  choose(0);
}
