// The interface's words in the chosen language: t("send"), t("download", { count: 3 }).

const LANGUAGES = ["zh", "en"];
let words = {};
export let language = "zh";

export async function speak(wanted) {
  const fits = LANGUAGES.includes(wanted) ? wanted : navigator.language.startsWith("zh") ? "zh" : "en";
  words = await (await fetch(`/console/locales/${fits}.json`)).json();
  language = fits;
  localStorage.setItem("language", fits);
  document.documentElement.lang = fits;
}

export function t(name, values = {}) {
  return (words[name] ?? name).replace(/\{(\w+)\}/g, (_, key) => values[key] ?? "");
}

// Seconds as people say them, in two figures.
export function duration(seconds) {
  if (seconds === null || !Number.isFinite(seconds)) return "–";
  const [unit, size] = [["days", 86400], ["hours", 3600], ["minutes", 60]].find(([, size]) => seconds >= 1.5 * size) ?? ["seconds", 1];
  return t(unit, { count: seconds < 1 ? "< 1" : Number((seconds / size).toPrecision(2)) });
}

export const day = (stamp) => new Date(stamp * 1000).toLocaleString(language, { dateStyle: "short", timeStyle: "short" });
