"""Private knowledge: files become passages, questions find theirs, and what a model is given fits it."""

import gzip
import json
import math
from collections import Counter
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_samples import KEY, Served, call, get, made, send

from inkstone.errors import InputError
from inkstone.serve import knowledge
from inkstone.serve.guard import Refused
from inkstone.serve.knowledge import WIDTH, Bm25, cut, framed, looked_for, read_passages, terms, width

TEXTS = [
    "静夜思是李白写的诗。",
    "望岳是杜甫写的诗，诗中写泰山。",
    "The warranty of the pump lasts 24 months.",
    "The pump is cleaned every week; call 110 on failure.",
    "李白字太白，号青莲居士。李白好酒。",
]
MANUAL = """# 水泵手册

水泵的保修期为二十四个月，从购买之日算起。

水泵每周清洗一次，清洗前必须断开电源。

# Pump manual

The warranty of the pump lasts 24 months from the day of purchase.

Clean the pump once a week, and disconnect it before you do.
"""


def test_scores_are_the_written_out_formula() -> None:
    index, words = Bm25(TEXTS), [terms(text) for text in TEXTS]
    mean = sum(map(len, words)) / len(words)
    for query in ("李白的诗", "pump warranty 24", "李白 pump", "酒酒酒", "nothing here", ""):
        for place, score in enumerate(index.scores(terms(query))):
            expected = 0.0
            for term in set(terms(query)):
                having = sum(term in one for one in words)
                idf = math.log(1 + (len(TEXTS) - having + 0.5) / (having + 0.5))
                count = words[place].count(term)
                expected += idf * count * 2.2 / (count + 1.2 * (1 - 0.75 + 0.75 * len(words[place]) / mean))
            assert score == pytest.approx(expected, abs=1e-9), (query, place)


def test_terms_are_characters_alone_and_by_two_and_lower_case_words() -> None:
    assert terms("李白写诗，GPT-4 Pump２") == ["李", "白", "写", "诗", "李白", "白写", "写诗", "gpt", "4", "pump2"]
    assert not Bm25([]).scores(["x"]).size and not Bm25(["！！"]).scores(["x"]).any()


def test_passages_hold_every_paragraph_in_order_and_only_whole_ones_twice() -> None:
    paragraphs = [f"第{number}段，" + "山高水长" * (number % 9) + "。" for number in range(120)]
    found = cut("\n\n".join(paragraphs))
    assert all(width(text) <= WIDTH for _, text in found)
    lines = [line for _, text in found for line in text.split("\n")]
    assert set(lines) == set(paragraphs) and max(Counter(lines).values()) <= 2
    assert list(dict.fromkeys(lines)) == paragraphs
    assert any(a.split("\n")[-1] == b.split("\n")[0] for (_, a), (_, b) in pairwise(found))
    assert all(paragraphs[(line - 1) // 2] == text.split("\n")[0] for line, text in found)
    english = cut(" ".join(f"Sentence {number} ends here." for number in range(200)))
    assert 500 < np.mean([len(text) for _, text in english[:-1]]) <= 800
    assert all(text.endswith(".") for _, text in english), "cut at the ends of sentences"
    chinese = cut("这是一个句子。" * 200)
    assert 250 < len(chinese[0][1]) <= 350


@settings(max_examples=200, deadline=None)
@given(st.text("ab水火。.! \n\r\u2028#", max_size=3000))
def test_no_character_is_lost_and_no_passage_is_too_wide(text: str) -> None:
    found = cut(text)
    assert all(width(one) <= WIDTH + 1 and one.strip() for _, one in found)
    rest = "".join("".join(one for _, one in found).split())
    for char in set("".join(text.split())):
        assert rest.count(char) >= text.count(char)


def collection(served: Served, name: str, **files: str | bytes) -> int:
    number: int = made(served, "/api/collections", {"name": name})["id"]
    for file, content in files.items():
        told = put(served, number, file.replace("_", "."), content.encode() if isinstance(content, str) else content)
        assert told[0] == 200, told
    return number


def put(served: Served, number: int, name: str, content: bytes) -> tuple[int, Any]:
    return send(served, f"/api/collections/{number}/files?name={quote(name)}", content)


def look(served: Served, number: int, query: str, **more: int) -> Any:
    return made(served, f"/api/collections/{number}/search", {"query": query} | more)


def test_questions_in_both_languages_find_their_passages_and_a_changed_file_is_seen(kept: Served) -> None:
    poems = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TEXTS)
    number = collection(kept, "手册", manual_md=MANUAL + "\n\n填充。" * 300, poems_jsonl=poems)
    best = look(kept, number, "水泵保修多久？")[0]
    assert "二十四个月" in best["text"] and (best["file"], best["place"]) == ("manual.md", 1) and best["score"] > 0
    english = look(kept, number, "Who wrote about Taishan 泰山?", top=1)
    assert [(one["file"], one["place"]) for one in english] == [("poems.jsonl", 2)]
    assert "24 months" in look(kept, number, "how long is the WARRANTY?")[0]["text"]
    assert look(kept, number, "zzz") == []
    assert look(kept, number, "who is the")[0]["score"] > 0, "a question of empty words only is looked up as it is"
    listed = {one["id"]: one for one in made(kept, "/api/collections", None, "GET")}[number]
    assert {file["name"]: file["passages"] for file in listed["files"]}["poems.jsonl"] == 5
    put(kept, number, "poems.jsonl", '{"text": "泰山在山东。"}'.encode())
    assert look(kept, number, "泰山")[0]["text"] == "泰山在山东。"
    assert look(kept, number, "青莲居士") == [], "the file's former passages are gone"


def test_of_many_passages_the_right_one_is_first(served: Served) -> None:
    rows = "".join(
        json.dumps({"q": f"编号{n}的零件叫什么？", "a": f"part number {n} is gear{n}"}) + "\n" for n in range(3000)
    )
    number = collection(served, "large", parts_jsonl=rows)
    for wanted in (7, 1234, 2999):
        assert look(served, number, f"gear{wanted}", top=1)[0]["place"] == wanted + 1
        assert look(served, number, f"编号{wanted}的零件", top=3)[0]["place"] == wanted + 1
    other = collection(served, "small", a_txt="gear7")
    assert [one["file"] for one in look(served, other, "gear7")] == ["a.txt"]


def test_files_are_called_as_people_call_them(served: Served) -> None:
    number = collection(served, "names")
    for name in ("手册 (1).TXT", "📘 A&B's “guide”.md", "x.markdown"):
        assert put(served, number, name, b"gear")[0] == 200
    assert {one["file"] for one in look(served, number, "gear")} == {
        "手册 (1).txt",
        "📘 A&B's “guide”.md",
        "x.markdown",
    }
    assert call(served, "DELETE", f"/api/collections/{number}/files?name={quote('手册 (1).txt')}")[0] == 204


def test_what_is_removed_is_found_no_more(served: Served) -> None:
    number = collection(served, "gone", a_txt="水", b_txt="火")
    assert look(served, number, "水火")
    assert call(served, "DELETE", f"/api/collections/{number}/files?name=a.txt")[0] == 204
    assert [one["file"] for one in look(served, number, "水火")] == ["b.txt"]
    assert call(served, "DELETE", f"/api/collections/{number}/files?name=a.txt")[0] == 404
    assert call(served, "DELETE", f"/api/collections/{number}")[0] == 204
    assert call(served, "POST", f"/api/collections/{number}/search", {"query": "火"})[0] == 404
    assert served.jobs.store.passages(number) == []
    assert put(served, number, "a.txt", b"x")[0] == 404


@pytest.mark.parametrize(
    ("name", "content", "code", "said"),
    [
        ("../a.txt", b"x", 400, "no file that can be read here"),
        (".a.txt", b"x", 400, "no file that can be read here"),
        ("a.py", b"x", 400, "no file that can be read here"),
        ("a.txt\0", b"x", 400, "no file that can be read here"),
        ("a\n.txt", b"x", 400, "no file that can be read here"),
        ("a.pdf", b"%PDF-1.7", 400, "save the text of a PDF or a Word file so"),
        ("a.txt", b"", 400, "holds no text"),
        ("a.txt", b" \n\n ", 400, "holds no text"),
        ("a.txt", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" * 9, 400, "a"),
        ("a.txt.gz", b"no gzip", 400, "damaged"),
        ("a.txt.gz", gzip.compress(b"water " * 99)[:-9], 400, "damaged"),
        ("a.txt.gz", gzip.compress(b" " * 100_000_000), 413, "MiB of text"),
        ("a.jsonl", b'{"a": "b"}\nno json\n', 400, "line 2 of a.jsonl"),
        ("a.jsonl", b'["a"]', 400, "line 1 of a.jsonl"),
        ("a.jsonl", b'{"a": 1}', 400, "holds no text"),
        ("a.jsonl", b"[" * 100_000, 400, "line 1"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_words(
    name: str, content: bytes, code: int, said: str, served: Served
) -> None:
    number = collection(served, "faults")
    status, told = put(served, number, name, content)
    assert (status, said in told["error"]["message"]) == (code, True), told
    assert served.jobs.store.passages(number) == []


def test_texts_of_other_encodings_and_hostile_ones_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "春眠不觉晓，处处闻啼鸟。夜来风雨声，花落知多少。" * 3
    for encoding in ("gb18030", "utf-8-sig", "utf-16"):
        assert read_passages("a.txt", text.encode(encoding)) == [(1, text)]
    assert read_passages("a.jsonl", rb'{"a": "\ud800x\u0000y"}') == [(1, "?x y")]
    assert read_passages("a.txt", "一\u2028二\r\n\r\n".encode() + b"x" * 800) == [(1, "一\u2028二"), (3, "x" * 800)]
    assert len(read_passages("a.txt", b"a" * 10**6)) > 1000, "a line without an end"
    assert read_passages("a.md", b" " * 10**6 + b"x\n" + b"\n" * 10**6) == [(1, "x")]
    monkeypatch.setattr(knowledge, "MAX_BYTES", 1000)
    with pytest.raises(Refused, match="split it"):
        read_passages("a.txt", b"x" * 1001)
    monkeypatch.setattr(knowledge, "MAX_PASSAGES", 2)
    with pytest.raises(InputError, match="more than 2 passages"):
        read_passages("a.jsonl", b'{"a": "b"}\n' * 3)


def test_an_upload_is_bounded(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inkstone.serve.console.routes.MAX_BYTES", 1000)
    assert put(served, collection(served, "large"), "a.txt", b"x" * 2000)[0] == 413


def test_a_model_is_given_the_best_passages_that_fit_and_never_more_than_its_context(served: Served) -> None:
    rows = "".join(json.dumps({"t": "pump " + "x" * size}) + "\n" for size in (40, 700, 20, 60, 90))
    number = collection(served, "ground", a_jsonl=rows)
    said = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello"}]
    asked = [*said, {"role": "user", "content": "pump"}]
    path = f"/api/collections/{number}/ground"
    for most in (None, 4, 40, 100, 10**4):
        told = made(served, path, {"model": "chat", "messages": asked, "max_tokens": most})
        given = [one for one in told["passages"] if one["number"]]
        assert [one["number"] for one in given] == list(range(1, len(given) + 1))
        assert len(told["passages"]) == 5 and all(one["place"] != 2 for one in given), "the long one is left out"
        assert told["messages"][:-1] == said and told["messages"][-1]["content"] == framed("pump", given)
        last = {"model": "chat", "messages": told["messages"][-1:]}
        assert made(served, "/tokenize", last)["count"] <= max(256 - (most or 1024), 128)
        if given:
            assert told["messages"][-1]["content"].endswith("Question: pump")
        again = made(served, "/api/ground", {"messages": asked, "passages": given})
        assert again["messages"] == told["messages"], "the trace shows what the model saw"
    body = {"model": "chat", "messages": told["messages"], "drop_oldest": True, "max_tokens": 4}
    assert call(served, "POST", "/v1/chat/completions", body)[0] == 200
    few = made(served, path, {"model": "chat", "messages": asked, "max_tokens": 4})["passages"]
    assert any(one["number"] for one in few), "with little to answer there is room"
    plain = made(served, path, {"model": "chat", "messages": [{"role": "user", "content": "zzz"}]})
    assert plain == {"messages": [{"role": "user", "content": "zzz"}], "passages": []}


@pytest.mark.parametrize(
    ("first", "follow", "there"),
    [
        ("How do I clean pump 7?", "And its warranty?", "pump 7 is under warranty"),
        ("泵七怎么清洗？", "那保修呢？", "泵七保修两年"),
    ],
)
def test_a_short_follow_up_is_looked_up_with_the_question_before_it(
    first: str, follow: str, there: str, served: Served
) -> None:
    others = [f"pump {n} is under warranty" for n in range(20, 40)] + [f"炉{n}保修一年" for n in range(20)]
    number = collection(served, f"follow {first}", a_jsonl="\n".join(json.dumps({"text": t}) for t in [*others, there]))
    said = [{"role": "user", "content": first}, {"role": "assistant", "content": "x"}]
    asked = {"model": "chat", "messages": [*said, {"role": "user", "content": follow}], "max_tokens": 4}
    told = made(served, f"/api/collections/{number}/ground", asked)
    assert told["passages"][0]["text"] == there
    assert looked_for([*said, {"role": "user", "content": "x" * 50}]) == "x" * 50
    assert looked_for([{"role": "user", "content": follow}]) == follow


def test_a_frame_speaks_the_questions_language() -> None:
    passage = [{"file": "a.txt", "text": "水泵"}]
    assert framed("水泵？", passage).startswith("请根据") and framed("水泵？", passage).endswith("问题：水泵？")
    assert framed("pump?", passage).startswith("Answer the question") and "[1] a.txt\n水泵" in framed("pump?", passage)
    assert framed("pump?", []) == "pump?"


def test_a_conversation_keeps_the_persons_words_and_the_citations(served: Served) -> None:
    path = f"/api/conversations/{made(served, '/api/conversations', {})['id']}"
    asked = made(served, f"{path}/messages", {"role": "user", "content": "pump"})
    passage = {"number": 1, "file": "a.txt", "place": 3, "text": "water", "score": 1.5}
    figures = {"knowledge": "手册", "passages": [passage], "first": 0.1, "finish": "stop"}
    answer = {"role": "assistant", "content": "[1]", "parent": asked["id"], "figures": figures}
    made(served, f"{path}/messages", answer)
    kept = made(served, path, None, "GET")["messages"]
    assert [one["content"] for one in kept] == ["pump", "[1]"] and kept[1]["figures"] == figures
    answer["figures"] = {"passages": [passage | {"path": "/etc"}]}
    assert call(served, "POST", f"{path}/messages", answer)[0] == 400


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        ("/api/collections", {"name": ""}, 400),
        ("/api/collections/1000000/search", {"query": "x"}, 404),
        ("/api/collections/1000000/ground", {"model": "chat", "messages": [{"role": "user", "content": "x"}]}, 404),
        ("/api/collections/1/search", {"query": "", "top": 5}, 400),
        ("/api/collections/1/search", {"query": "x", "top": 0}, 400),
        ("/api/collections/1/ground", {"model": "nobody", "messages": [{"role": "user", "content": "x"}]}, 404),
        ("/api/collections/1/ground", {"model": "chat", "messages": []}, 400),
    ],
)
def test_what_cannot_be_looked_up_is_refused(path: str, body: Any, code: int, served: Served) -> None:
    assert call(served, "POST", path, body)[0] == code


def test_a_base_model_is_not_grounded_and_knowledge_needs_the_key(served: Served, locked: Served) -> None:
    number = collection(served, "base", a_txt="pump")
    asked = {"model": "base", "messages": [{"role": "user", "content": "pump"}]}
    code, told = call(served, "POST", f"/api/collections/{number}/ground", asked)
    assert code == 400 and "no chat template" in told["error"]["message"]
    assert get(locked, "/api/collections")[0] == 401 and get(locked, "/api/collections", KEY)[0] == 200
