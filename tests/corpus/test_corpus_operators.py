"""The operators of a batch together: order does not matter, nothing is lost without a trace, settings are obeyed."""

from pathlib import Path

import pytest

from inkstone.corpus.judge.operators import Operated, operate
from inkstone.corpus.judge.resources import Models, Prepared, PrepareTask, open_models, prepare_models
from inkstone.corpus.read.readers import Batch
from inkstone.corpus.settings import CorpusSettings
from inkstone.errors import InputError

STORY = "我们在河边住了三年，每天早晨都能听见船夫唱歌。后来桥修好了，渡船不再需要，歌声也就没有了。"
NOTICE = "版权所有，未经授权不得转载。"
CODE = "# All rights reserved.\nimport os\n\ndef show_terms_of_use(a):\n    return {'privacy policy': a[0]}\n"


def run(*texts: str, models: Models | None = None, **settings: object) -> Operated:
    ids = [f"s:f:{number}" for number in range(len(texts))]
    batch = Batch(ids, list(texts), ["s"] * len(texts), ["{}"] * len(texts))
    return operate(batch, CorpusSettings.model_validate(settings), models or Models())


def test_documents_do_not_influence_each_other() -> None:
    texts = [
        STORY,
        f"{STORY}\n{NOTICE}",
        CODE,
        "加微信 17643811914",
        "<html><body><p>" + STORY + "</p></body></html>",
        "",
    ]
    together = run(*texts)
    for row, text in enumerate(texts):
        alone = run(text)
        assert alone.texts[0].as_py() == together.texts[row].as_py()
        assert alone.verdicts.rule[0] == together.verdicts.rule[row]
        assert alone.verdicts.value[0] == together.verdicts.value[row]


def test_notices_go_with_their_line_and_are_listed() -> None:
    done = run(f"{NOTICE}\n{STORY}\n\n{NOTICE}\n{STORY}\n{NOTICE}", NOTICE)
    assert done.texts.to_pylist() == [f"{STORY}\n\n{STORY}", ""]
    assert [(line.row, line.rule, line.text) for line in done.lines] == [(0, "web_line", NOTICE)] * 3 + [
        (1, "web_line", NOTICE)
    ]
    kept = run(f"{NOTICE}\n{STORY}", web_lines=False)
    assert kept.texts.to_pylist() == [f"{NOTICE}\n{STORY}"] and not kept.lines


def test_code_and_sentences_that_mention_a_notice_stay() -> None:
    sentence = (
        "The privacy policy of the library was a matter of much debate among its readers, who had read every page " * 2
    )
    assert run(CODE.strip(), sentence.strip()).texts.to_pylist() == [CODE.strip(), sentence.strip()]


def test_traditional_characters_are_simplified_on_request_only() -> None:
    text = "皇后梳理頭髮，乾隆皇帝曬乾衣服，舉頭望明月，低頭思故鄉。"
    assert run(text).texts.to_pylist() == [text]
    assert run(text, to_simplified=True).texts.to_pylist() == [
        "皇后梳理头发，乾隆皇帝晒干衣服，举头望明月，低头思故乡。"
    ]


def test_web_pages_are_extracted_dropped_or_kept() -> None:
    page = (
        f"<!DOCTYPE html><html><head><title>河</title></head><body><article><p>{STORY * 3}</p></article></body></html>"
    )
    assert run(page).texts.to_pylist() == [STORY * 3] and run(page).metas == ['{"title": "河"}']
    assert run(page, html="drop").verdicts.rule == ["html"]
    assert run(page, html="keep").texts.to_pylist() == [page]


def test_contact_lists_can_be_dropped() -> None:
    text = STORY + " a@example.com b@example.com 17643811914 " + STORY
    assert run(text, pii={"drop": 4}).verdicts.rule == [""]
    done = run(text, pii={"drop": 3})
    assert (done.verdicts.rule, done.verdicts.value[0], done.verdicts.threshold[0]) == (["private_data"], 3, 3)


def test_word_lists_judge_by_count_and_share(tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("# 说明\n船夫\nold landing\n", encoding="utf-8")
    settings = CorpusSettings.model_validate({"word_lists": {"river": {"file": str(tmp_path / "bad.txt")}}})
    (tmp_path / "models").mkdir()
    prepare_models(PrepareTask((), settings), tmp_path / "models")
    models = open_models(Prepared(tmp_path / "models", ""))
    texts = [STORY, STORY.replace("歌声", "船夫").replace("渡船", "船夫"), STORY + "船夫船夫"]
    batch = Batch(["1", "2", "3"], texts, ["s"] * 3, ["{}"] * 3)
    done = operate(batch, settings, models)
    assert [rule == "words_river" for rule in done.verdicts.rule] == [False, True, True]


def test_everything_wrong_with_named_files_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("# nothing\n")
    settings = CorpusSettings.model_validate(
        {
            "word_lists": {"a": {"file": str(tmp_path / "gone.txt")}, "b": {"file": str(tmp_path / "empty.txt")}},
            "quality": {"model": str(tmp_path / "nowhere")},
            "decontaminate": [str(tmp_path / "missing.jsonl")],
        }
    )
    with pytest.raises(InputError) as caught:
        prepare_models(PrepareTask((), settings), tmp_path)
    assert len(caught.value.problems) == 4
