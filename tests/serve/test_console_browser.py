"""Journeys through the console in a real Chromium, in both languages; a console error or foreign request fails them."""

import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from evaluated_runs import evaluated
from serve_samples import Served, get, nothing_held, post, running, send, wait_until
from test_serve_adapters import SHAPES, make_adapter

from inkstone.serve.adapters import find_adapters
from inkstone.serve.guard import Guard
from inkstone.serve.models import Library, ServeSettings, find_models

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install 'inkstone[browser]'")
CHROMIUM = shutil.which("chromium")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")]

LOCALES = Path(__file__).parents[2] / "inkstone" / "serve" / "console" / "locales"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(params=["zh", "en"])
def words(request: pytest.FixtureRequest) -> dict[str, str]:
    """What the interface says in a language."""
    said: dict[str, str] = json.loads((LOCALES / f"{request.param}.json").read_text(encoding="utf-8"))
    return said | {"language": request.param}


@pytest.fixture
def page(browser: Any, served: Served, words: dict[str, str]) -> Iterator[Any]:
    context = browser.new_context(locale={"zh": "zh-CN", "en": "en-GB"}[words["language"]])
    context.set_default_timeout(15_000)
    tab = context.new_page()
    faults: list[str] = []
    tab.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: faults.append(str(error)))
    tab.on("request", lambda sent: None if sent.url.startswith((served.url, "data:")) else faults.append(sent.url))
    tab.goto(served.url)
    yield tab
    context.close()
    assert not faults


def say(page: Any, words: dict[str, str], text: str) -> None:
    page.get_by_role("textbox", name=words["say"]).fill(text)
    page.get_by_role("button", name=f"↵ {words['send']}", disabled=False).wait_for()
    page.keyboard.press("Enter")


def short_answers(page: Any, words: dict[str, str]) -> None:
    """Through an assistant, whose answers have few tokens and one beginning."""
    page.get_by_role("button", name=words["edit_assistant"]).click()
    page.get_by_role("textbox", name=words["name"]).fill("墨客")
    page.get_by_role("dialog").get_by_role("combobox", name=words["model"]).select_option("chat")
    page.get_by_role("spinbutton", name=words["max_tokens"]).fill("6")
    page.get_by_role("button", name=words["save"]).click()
    page.get_by_role("dialog").wait_for(state="detached")


def test_an_adapter_that_is_served_is_listed_with_its_base_and_is_not_tuned(
    browser: Any, models: Path, tmp_path: Path
) -> None:
    """`inkstone serve --adapter`: it can be talked to; export and tuning are its base's."""
    make_adapter(models / "chat", tmp_path / "law", SHAPES["plain"])
    places = find_models([models])
    library = Library(places, ServeSettings(rows=2), find_adapters([f"law={tmp_path / 'law'}"], places))
    with running(library, Guard([]), tmp_path / "c.sqlite") as one:
        tab = browser.new_page(locale="en-GB")
        tab.goto(f"{one.url}/#/models")
        card = tab.get_by_role("article", name="law", exact=True)
        card.get_by_text("law ← chat", exact=True).wait_for()
        card.get_by_role("button", name="Talk to it").wait_for()
        assert card.get_by_role("link").count() == card.locator("details").count() == 0
        tab.screenshot(path=tmp_path / "adapters.png")
        tab.goto(f"{one.url}/#/tune/new")
        tab.get_by_role("checkbox", name="Select models: chat", exact=True).wait_for()
        assert tab.get_by_role("checkbox", name="Select models: law", exact=True).count() == 0
        tab.close()


PAGES = ("chat", "knowledge", "tune", "tune/new", "models", "evaluation", "feedback")


def visit(page: Any, words: dict[str, str], name: str) -> None:
    page.evaluate("name => { location.hash = `#/${name}` }", name)
    shown = page.get_by_role("link", name=words[f"page_{name.split('/')[0]}"], exact=True)
    shown.and_(page.locator("[aria-current=page]")).wait_for()
    page.wait_for_load_state("networkidle")


def test_a_thumb_down_and_a_better_answer_are_a_pair_on_the_feedback_page(
    page: Any, words: dict[str, str], served: Served
) -> None:
    short_answers(page, words)
    say(page, words, "火")
    page.get_by_role("button", name=words["bad"], exact=True).click()
    page.get_by_role("textbox", name=words["better"]).fill(f"火是燃烧。{words['language']}")
    page.get_by_role("button", name=words["save"]).click()
    page.get_by_role("dialog").wait_for(state="detached")
    page.get_by_role("link", name=words["page_feedback"]).click()
    page.get_by_text(f"火是燃烧。{words['language']}").wait_for()
    rows = [json.loads(line) for line in get(served, "/api/preferences.jsonl")[1].splitlines()]
    assert rows[-1]["messages"][-1]["content"] == "火"


def test_a_question_without_an_answer_is_not_asked_again(page: Any) -> None:
    """Stopped before its first word, refused for its length, or answered with nothing."""
    told = page.evaluate(
        """import("/console/tree.js").then(({ turnsOf }) => turnsOf(
          [["user", "a"], ["user", "b"], ["assistant", ""], ["user", "c"], ["assistant", "d"], ["user", "e"]]
            .map(([role, content]) => ({ role, content })), "s").map(({ content }) => content))"""
    )
    assert told == ["s", "c", "d", "e"]


def test_stop_ends_the_answer_on_the_server_and_keeps_what_there_is(
    page: Any, words: dict[str, str], served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine is slowed down so that the answer lasts longer than a click takes."""
    post(served, "/v1/chat/completions", {"model": "chat", "messages": [{"role": "user", "content": "x"}]})
    engine = served.library.open["chat"].runner.engine
    assert engine is not None
    step, cancelled = engine.step, engine.figures()["cancelled"]
    monkeypatch.setattr(engine, "step", lambda: (time.sleep(0.1), step())[1])
    say(page, words, "水")
    page.get_by_role("button", name=words["stop"]).click()
    page.get_by_role("button", name=f"↵ {words['send']}").wait_for()
    wait_until(lambda: nothing_held(served))
    assert engine.figures()["cancelled"] == cancelled + 1


def test_what_a_model_writes_is_never_markup(page: Any, words: dict[str, str]) -> None:
    """Written by hand, for a model seldom writes it: tags stay text, formulas and tables are drawn."""
    text = "<img src=x onerror=alert(1)> [x](javascript:alert(1))\n\n|a|b|\n|-|-|\n|1|$\\frac{1}{2}$|\n\n" + "> " * 500
    drawn = page.evaluate(
        """async (text) => {
          const { Markdown } = await import("/console/markdown.js");
          const { html, render } = await import("/console/vendor/preact-htm-3.1.1.js");
          const place = document.createElement("div");
          render(html`<${Markdown} text=${text} />`, place);
          return ["img", "a", "td", "mfrac"].map((name) => place.querySelectorAll(name).length);
        }""",
        text,
    )
    assert drawn == [0, 0, 2, 1]


def test_from_a_thumb_down_to_the_tuned_model_beside_its_base(
    page: Any, words: dict[str, str], served: Served, tmp_path: Path
) -> None:
    """The loop: a better answer, a preference set, a DPO task with its estimate and curve, two answers side by side."""
    short_answers(page, words)
    say(page, words, "天为什么蓝？")
    page.get_by_role("button", name=words["bad"], exact=True).click()
    page.get_by_role("textbox", name=words["better"]).fill("短波散射更强。")
    page.get_by_role("button", name=words["save"]).click()
    page.get_by_role("dialog").wait_for(state="detached")
    page.get_by_role("link", name=words["page_feedback"]).click()
    page.get_by_role("button", name=words["make_set"].split("{")[0]).click()
    page.get_by_role("link", name=words["train_on_it"]).click()
    page.get_by_role("dialog").get_by_text(words["preference"]).wait_for()
    page.get_by_role("spinbutton", name=words["epochs"]).fill("40")
    with page.expect_response("**/api/tasks/plan"):
        page.keyboard.press("Tab")
    page.screenshot(path=tmp_path / "confirm.png")
    page.get_by_role("button", name=words["start"].split("{")[0]).click()
    page.get_by_role("link", name="feedback-").first.click()
    page.get_by_text(words["state_succeeded"], exact=True).wait_for(timeout=90_000)
    page.get_by_role("img", name=words["loss_curve"]).wait_for()
    page.screenshot(path=tmp_path / "done.png", full_page=True)
    page.get_by_role("button", name=words["compare"]).click()
    say(page, words, "天为什么蓝？")
    page.locator(".beside article footer").nth(1).wait_for()
    page.screenshot(path=tmp_path / "beside.png")
    page.get_by_role("link", name=words["page_models"], exact=True).click()
    page.get_by_text(re.compile("feedback-.* ← chat")).first.wait_for()
    page.screenshot(path=tmp_path / "models.png")


def test_thumbs_alone_become_a_kto_task(page: Any, words: dict[str, str], tmp_path: Path) -> None:
    """One up, one down, without a better answer."""
    short_answers(page, words)
    for place, (text, thumb) in enumerate((("风", "good"), ("云", "bad"))):
        say(page, words, text)
        page.get_by_role("button", name=words[thumb], exact=True).nth(place).click()
        if thumb == "bad":
            page.get_by_role("button", name=words["save"]).click()
            page.get_by_role("dialog").wait_for(state="detached")
        page.get_by_role("button", name=words[thumb], exact=True, pressed=True).last.wait_for()
    page.get_by_role("link", name=words["page_feedback"]).click()
    page.get_by_role("button", name=words["make_thumbs"].split("{")[0]).click()
    page.get_by_role("link", name=words["train_on_thumbs"]).wait_for()
    page.screenshot(path=tmp_path / "thumbs.png")
    page.get_by_role("link", name=words["train_on_thumbs"]).click()
    page.get_by_role("dialog").get_by_text(words["kto"]).wait_for()
    page.screenshot(path=tmp_path / "confirm-kto.png")
    page.get_by_role("button", name=words["start"].split("{")[0]).click()
    page.get_by_role("link", name="thumbs-").first.click()
    page.get_by_role("heading", name="thumbs-").wait_for()
    page.get_by_text(words["state_succeeded"], exact=True).wait_for(timeout=90_000)
    page.get_by_text(words["kto"]).first.wait_for()


def test_tasks_of_an_uploaded_file_are_confirmed_stopped_resumed_and_the_same_after_a_reload(
    page: Any, words: dict[str, str], served: Served, tmp_path: Path
) -> None:
    file = tmp_path / "古诗.jsonl"
    row = {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "水火" * 9}]}
    file.write_text((json.dumps(row) + "\n") * 300 + '{"messages": []}\n', encoding="utf-8")
    page.get_by_role("link", name=words["page_tune"]).click()
    page.get_by_role("link", name=words["new_tasks"]).click()
    page.get_by_label(words["upload"]).set_input_files(file)
    page.get_by_text("301: messages").wait_for()
    page.get_by_role("checkbox", name=f"{words['all']}: {words['pick_model']}").check()
    page.get_by_role("checkbox", name=f"{words['pick_data']}: 古诗.jsonl").last.check()
    page.get_by_role("radio", name=f"{words['pick_test']}: 古诗.jsonl").last.check()
    page.get_by_role("checkbox", name=f"{words['pick_method']}: {words['whole']}", exact=True).check()
    page.screenshot(path=tmp_path / "wizard.png", full_page=True)
    page.get_by_role("button", name=words["confirm"].split("{")[0]).click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("row").nth(4).wait_for()
    page.screenshot(path=tmp_path / "rows.png")
    while dialog.get_by_role("row").count() > 2:
        dialog.get_by_role("button", name=words["remove_it"].replace("{name}", "古诗.jsonl")).last.click()
    dialog.get_by_role("spinbutton", name=words["epochs"]).fill("900")
    with page.expect_response("**/api/tasks/plan"):
        page.keyboard.press("Tab")
    dialog.get_by_role("button", name=words["start"].split("{")[0]).click()
    page.get_by_role("link", name="古诗").first.click()
    page.get_by_role("img", name=words["loss_curve"]).wait_for(timeout=60_000)
    page.reload()
    page.get_by_text(words["state_running"], exact=True).wait_for()
    page.get_by_role("img", name=words["loss_curve"]).wait_for()
    page.screenshot(path=tmp_path / "running.png", full_page=True)
    page.get_by_role("button", name=words["stop"]).click()
    page.get_by_text(words["state_stopped"], exact=True).wait_for(timeout=30_000)
    page.get_by_role("button", name=words["resume"]).click()
    page.get_by_role("button", name=words["stop"]).wait_for()
    page.get_by_role("progressbar").wait_for(timeout=60_000)
    page.get_by_role("button", name=words["stop"]).click()
    page.get_by_text(words["state_stopped"], exact=True).wait_for(timeout=30_000)
    page.get_by_role("link", name=words["clone"]).click()
    page.get_by_role("checkbox", name=f"{words['pick_method']}: LoRA", exact=True).wait_for()
    page.locator(".card input:checked").nth(3).wait_for()
    page.go_back()
    page.get_by_role("heading", name="古诗").wait_for()


@pytest.mark.parametrize("width", [360, 1440])
def test_a_data_set_is_seen_as_the_model_will_see_it(
    page: Any, words: dict[str, str], width: int, tmp_path: Path
) -> None:
    """What is learned is marked, typed and real control tokens differ, faults are named, another length cuts."""
    page.set_viewport_size({"width": width, "height": 740})
    file = tmp_path / f"看{width}.jsonl"
    turns = [("user", "一？"), ("assistant", "水" * 9), ("user", "a <|im_end|>"), ("assistant", "世界")]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    file.write_text((json.dumps(row) + "\n") * 30 + '{"messages": []}\n', encoding="utf-8")
    page.get_by_role("link", name=words["page_tune"]).click()
    page.get_by_role("link", name=words["new_tasks"]).click()
    page.get_by_label(words["upload"]).set_input_files(file)
    page.get_by_role("button", name=words["preview_it"].replace("{name}", file.name)).last.click()
    dialog = page.get_by_role("dialog")
    with page.expect_response("**/preview?model=chat"):
        dialog.get_by_role("combobox").select_option("chat")
    first = dialog.get_by_role("article").first
    first.locator("mark", has_text="世界").wait_for()
    assert "<|im_end|>" in first.locator(".control").all_inner_texts()
    assert "a <|im_end|>" in first.inner_text()
    dialog.get_by_text("31: messages").wait_for()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=tmp_path / f"preview-{scheme}.png")
    dialog.get_by_role("spinbutton", name=words["row_length"]).fill("50")
    page.keyboard.press("Enter")
    cut = dialog.get_by_text(words["count_rows_that_lose_their_oldest_rounds"]).locator(
        "xpath=following-sibling::dd[1]"
    )
    cut.get_by_text("30", exact=True).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.keyboard.press("Escape")
    dialog.wait_for(state="detached")


@pytest.mark.parametrize("width", [360, 1440])
def test_two_models_are_compared_question_by_question(
    page: Any, words: dict[str, str], width: int, models: Path, tmp_path: Path
) -> None:
    """By the keyboard too; what a model wrote stays text, and the second page follows the first."""
    page.set_viewport_size({"width": width, "height": 740})
    evaluated(models, {"base": range(100), "chat": range(70, 120)})
    page.get_by_role("link", name=words["page_evaluation"], exact=True).click()
    page.get_by_role("button", name=words["compare_do"], exact=True).focus()
    page.keyboard.press("Enter")
    shown = words["show_questions"].replace("{task}", "quiz, by letter")
    page.get_by_role("button", name=shown, exact=True).click()
    page.get_by_text(words["page_line"].format(**{"from": 1, "to": 50, "all": 90})).wait_for()
    page.get_by_role("button", name=words["page_after"]).click()
    page.get_by_text(words["page_line"].format(**{"from": 51, "to": 90, "all": 90})).wait_for()
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=tmp_path / f"differences-{scheme}.png", full_page=True)
    page.get_by_role("button", name=words["show_questions"].replace("{task}", "word problems")).click()
    page.get_by_role("cell", name="<b>base</b>").get_by_text(words["right"]).wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_an_answer_cites_the_passages_of_a_collection_and_each_opens(
    page: Any, words: dict[str, str], served: Served, tmp_path: Path
) -> None:
    """A file becomes a collection, a question finds its passage; the conversation keeps the person's own words."""
    name = f"水泵{words['language']}"
    file = tmp_path / "manual.txt"
    file.write_text("pump 1: clean.\n", encoding="utf-8")
    page.get_by_role("link", name=words["page_knowledge"], exact=True).click()
    page.get_by_role("textbox", name=words["collection_name"]).fill(name)
    page.get_by_role("button", name=words["collection_new"]).click()
    page.get_by_label(words["file_add"].replace("{name}", name)).set_input_files(file)
    page.get_by_text(words["file_kept"].replace("{name}", "manual.txt").replace("{count}", "1")).wait_for()
    page.get_by_role("searchbox", name=words["look_in"].replace("{name}", name)).fill("pump")
    page.keyboard.press("Enter")
    cited = words["passage_line"].replace("{file}", "manual.txt").replace("{place}", "1")
    page.get_by_text(f"[1] {cited}").wait_for()
    page.screenshot(path=tmp_path / "knowledge.png")
    page.get_by_role("link", name=words["page_chat"], exact=True).click()
    short_answers(page, words)
    page.get_by_role("combobox", name=words["scope"]).select_option(name)
    page.get_by_role("checkbox", name=words["trace"]).check()
    say(page, words, "pump?")
    answer = page.get_by_role("article", name="chat").last
    answer.get_by_text(f"[1] {cited}").first.click()
    answer.get_by_text("pump 1: clean.").first.wait_for()
    answer.locator("details.trace > summary").click()
    answer.get_by_text(words["retrieved"].replace("{name}", name).replace("{count}", "1")).wait_for()
    answer.locator(".ids").wait_for()
    assert "clean" in "".join(answer.locator(".tokens span").all_inner_texts())
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.screenshot(path=tmp_path / f"cited-{scheme}.png")
    kept = json.loads(get(served, f"/api/conversations/{page.url.rsplit('/', 1)[1]}")[1])["messages"]
    assert kept[0]["content"] == "pump?" and kept[1]["figures"]["passages"][0]["number"] == 1
    page.reload()
    page.get_by_role("article", name="chat").get_by_text(f"[1] {cited}").wait_for()
    page.get_by_role("link", name=words["page_knowledge"], exact=True).click()
    page.once("dialog", lambda asks: asks.accept())
    page.get_by_role("button", name=words["remove_it"].replace("{name}", name), exact=True).click()
    page.get_by_role("article", name=name).wait_for(state="detached")


def test_an_export_that_cannot_be_made_says_so_on_the_page(page: Any, words: dict[str, str], tmp_path: Path) -> None:
    """The sample's vocabulary has no name in GGUF. What can be made is downloaded in test_export."""
    page.get_by_role("link", name=words["page_models"], exact=True).click()
    card = page.get_by_role("article", name="chat", exact=True)
    card.get_by_text(words["export"], exact=True).click()
    card.get_by_role("combobox").select_option("q4_0")
    card.get_by_role("button", name=words["export_make"].replace("{name}", "chat")).click()
    card.get_by_text("no GGUF of this model").wait_for()
    page.screenshot(path=tmp_path / "export.png")


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(
    page: Any, words: dict[str, str], width: int, scheme: str, tmp_path: Path
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 740})
    page.get_by_role("button", name=words["theme"]).wait_for()
    for name in PAGES:
        visit(page, words, name)
        page.screenshot(path=tmp_path / f"{name.replace('/', '-')}.png")
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [360, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(
    page: Any, words: dict[str, str], served: Served, width: int, scheme: str, models: Path, tmp_path: Path
) -> None:
    """On every page, with something on each, and in its windows."""
    reason = "needs axe-core: pip install 'inkstone[browser]'"
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason=reason).Axe()
    evaluated(models, {"base": range(100), "chat": range(70, 120)})
    collection = post(served, "/api/collections", {"name": "axe"})[1]
    send(served, f"/api/collections/{collection['id']}/files?name=a.txt", b"pump 1: clean.\n")
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 740})
    found: dict[str, list[str]] = {}

    def check(what: str) -> None:
        page.screenshot(path=tmp_path / f"{what.replace('/', '-')}.png")
        faults = [one for one in axe.run(page).response["violations"] if one["impact"] in ("serious", "critical")]
        found[what] = [f"{one['id']}: {node['target']}" for one in faults for node in one["nodes"]]

    short_answers(page, words)
    page.get_by_role("checkbox", name=words["trace"]).check()
    say(page, words, "水")
    page.locator("details.trace > summary").click()
    page.locator(".ids").wait_for()
    check("answer")
    page.get_by_role("button", name=words["bad"], exact=True).click()
    page.get_by_role("textbox", name=words["better"]).fill("水是水。")
    check("better")
    page.get_by_role("button", name=words["save"]).click()
    page.get_by_role("dialog").wait_for(state="detached")
    for name in PAGES:
        visit(page, words, name)
        check(name)
    visit(page, words, "models")
    for summary in page.locator("details.export > summary").all():
        summary.click()
    check("exports")
    visit(page, words, "evaluation")
    page.get_by_role("button", name=words["compare_do"], exact=True).click()
    page.get_by_role("button", name=words["show_questions"].replace("{task}", "quiz, by letter"), exact=True).click()
    page.get_by_role("cell", name="B. 二").first.wait_for()
    check("differences")
    visit(page, words, "tune/new")
    row = {"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]}
    (tmp_path / "axe.jsonl").write_text(json.dumps(row) + '\n{"messages": []}\n', encoding="utf-8")
    page.get_by_label(words["upload"]).set_input_files(tmp_path / "axe.jsonl")
    page.get_by_role("button", name=words["preview_it"].replace("{name}", "axe.jsonl")).last.click()
    page.get_by_role("dialog").locator("mark").nth(1).wait_for()
    check("preview")
    page.keyboard.press("Escape")
    page.get_by_role("checkbox", name=f"{words['pick_model']}: chat", exact=True).check()
    page.get_by_role("checkbox", name=f"{words['pick_data']}: axe.jsonl").last.check()
    page.get_by_role("button", name=words["confirm"].split("{")[0]).click()
    page.get_by_role("dialog").get_by_role("row").nth(1).wait_for()
    check("confirm")
    page.get_by_role("dialog").get_by_role("button", name=words["start"].split("{")[0]).click()
    page.get_by_role("link", name="axe-lora").first.click()
    page.get_by_role("img", name=words["loss_curve"]).wait_for(timeout=60_000)
    check("task")
    assert not {what: faults for what, faults in found.items() if faults}
