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
