"""Reading conversations and preferences: every usual format, every problem named, no row lost in silence."""

import gzip
import json
from pathlib import Path

import pytest
import zstandard

from inkstone.chat import Message, Preference, Verdict, read_chats, read_preferences, read_verdicts
from inkstone.errors import InputError

REAL = Path(__file__).parents[3] / "shared" / "data"
ASK, SAY = {"role": "user", "content": "一加一？"}, {"role": "assistant", "content": "二。"}
CHAT = [Message("user", "一加一？"), Message("assistant", "二。")]


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def faults_of(path: Path) -> list[str]:
    with pytest.raises(InputError) as caught:
        read_chats([path])
    return [problem.removeprefix(str(path)) for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("row", "chat"),
    [
        ({"messages": [ASK, SAY]}, CHAT),
        ({"instruction": "一加一？", "input": "", "output": "二。"}, CHAT),
        ({"prompt": "一加一？", "response": "二。"}, CHAT),
        ({"question": "一加一？", "answer": "二。", "id": 7}, CHAT),
        (
            {"instruction": "翻译", "input": "hi", "output": "你好"},
            [Message("user", "翻译\nhi"), Message("assistant", "你好")],
        ),
        (
            {"instruction": "再加一？", "output": "三。", "history": [["一加一？", "二。"]], "system": "简短"},
            [Message("system", "简短"), *CHAT, Message("user", "再加一？"), Message("assistant", "三。")],
        ),
        ({"conversations": [{"from": "human", "value": "一加一？"}, {"from": "gpt", "value": "二。"}]}, CHAT),
        ({"conversation": [ASK, SAY], "system": None}, CHAT),
        (
            {"messages": [{"role": "system", "content": "甲"}, ASK, SAY], "system": "乙"},
            [Message("system", "甲"), *CHAT],
        ),
        ({"system": "乙", "tools": "[]", "messages": [ASK, SAY]}, [Message("system", "乙"), *CHAT]),
        ({"tools": '[{"name": "add"}]', "messages": [ASK, SAY]}, [Message("system", '[{"name": "add"}]'), *CHAT]),
        ({"prompt": "一加一？", "completion": "二。"}, CHAT),
        ({"messages": [{"role": "developer", "content": "简短"}, ASK, SAY]}, [Message("system", "简短"), *CHAT]),
        ({"messages": [{"role": "system", "content": ""}, ASK, SAY]}, CHAT),
        ({"messages": [ASK, {**SAY, "weight": 0}]}, [CHAT[0], Message("assistant", "二。", 0.0)]),
        ({"messages": [ASK, {**SAY, "weight": 1}]}, [CHAT[0], Message("assistant", "二。", 1.0)]),
        ({"messages": [ASK, {**SAY, "train": False}]}, [CHAT[0], Message("assistant", "二。", 0.0)]),
        (
            {
                "tools": [{"type": "function", "function": {"name": "add"}}],
                "messages": [
                    ASK,
                    {
                        "role": "assistant",
                        "content": None,
                        "tool_calls": [
                            {
                                "id": "1",
                                "type": "function",
                                "function": {"name": "add", "arguments": '{"a": 1, "b": 1}'},
                            }
                        ],
                    },
                    {"role": "tool", "tool_call_id": "1", "content": "2"},
                    SAY,
                ],
            },
            [
                Message("system", '[{"type": "function", "function": {"name": "add"}}]'),
                CHAT[0],
                Message("assistant", '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 1}}\n</tool_call>'),
                Message("tool", "2"),
                CHAT[1],
            ],
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "一加一？"},
                    {"from": "function_call", "value": '{"name": "add"}'},
                    {"from": "observation", "value": "2"},
                    {"from": "gpt", "value": "二。"},
                ]
            },
            [CHAT[0], Message("assistant", '{"name": "add"}'), Message("tool", "2"), CHAT[1]],
        ),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "一加"}, {"type": "text", "value": "一？"}]},
                    {**SAY, "loss_weight": 0.5},
                ]
            },
            [CHAT[0], Message("assistant", "二。", 0.5)],
        ),
        (
            {"system_prompt": "简短", "question": "一加一？", "response": "二。"},
            [Message("system", "简短"), *CHAT],
        ),
        (
            {"instruction": "多少？", "context": "一加一。", "response": "二。"},
            [Message("user", "多少？\n一加一。"), CHAT[1]],
        ),
        (
            {"messages": [ASK, {**SAY, "reasoning_content": "一、二。\n"}], "images": []},
            [CHAT[0], Message("assistant", "<think>\n一、二。\n</think>\n\n二。")],
        ),
        (
            {
                "functions": [{"name": "add"}],
                "messages": [
                    ASK,
                    {"role": "assistant", "content": "算。", "function_call": {"name": "add", "arguments": "{}"}},
                    {"role": "function", "name": "add", "content": "2"},
                    SAY,
                ],
            },
            [
                Message("system", '[{"name": "add"}]'),
                CHAT[0],
                Message("assistant", '算。\n<tool_call>\n{"name": "add", "arguments": {}}\n</tool_call>'),
                Message("tool", "2"),
                CHAT[1],
            ],
        ),
        ({"conversations": [{"from": "User", "value": "一加一？"}, {"from": "chatgpt", "value": "二。"}]}, CHAT),
        ({"content": "一加一？", "summary": "二。"}, CHAT),
        (
            {
                "meta_instruction": "算。",
                "chat": {
                    "turn_1": {
                        "Human": "<|Human|>: 一加一？<eoh>\n",
                        "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n",
                        "Commands": '<|Commands|>: Calculate("1+1")<eoc>\n',
                        "Tool Responses": "<|Results|>:\n2\n<eor>\n",
                        "MOSS": "<|MOSS|>: 二。<eom>\n",
                    }
                },
            },
            [
                Message("system", "算。"),
                CHAT[0],
                Message("assistant", 'Calculate("1+1")'),
                Message("tool", "2"),
                CHAT[1],
            ],
        ),
    ],
)
def test_each_format_gives_the_same_messages(row: dict[str, object], chat: list[Message], tmp_path: Path) -> None:
    assert read_chats([write(tmp_path / "chats.jsonl", [row])]).chats == [chat]


def test_lists_lines_and_compressed_files_hold_the_same_rows(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": f"第\u2028{number}行"}, SAY]} for number in range(3)]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    whole = json.dumps(rows, indent=1).encode()
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + lines + b"\n")
    (tmp_path / "b.json").write_bytes(whole)
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "d.json.zst").write_bytes(zstandard.compress(whole))
    (tmp_path / "e.json").write_bytes(lines)
    expected = read_chats([tmp_path / "a.jsonl"]).chats
    assert len(expected) == 3 and expected[0][0].content == "第\u20280行"
    for path in sorted(tmp_path.iterdir()):
        assert read_chats([path]).chats == expected
    assert len(read_chats(sorted(tmp_path.iterdir())).chats) == 15


@pytest.mark.parametrize(
    ("turns", "fault"),
    [
        ([ASK], "messages[0]: the last turn is the user's, so there is no answer to learn"),
        ([SAY], "messages[0]: the conversation begins with the assistant, not with the user"),
        ([ASK, ASK, SAY], "messages[1]: two user turns in a row"),
        ([ASK, SAY, SAY], "messages[2]: two assistant turns in a row"),
        ([ASK, {"role": "tool", "content": "2"}, SAY], "messages[1]: a tool turn cannot follow a user turn"),
        ([ASK, SAY, {"role": "system", "content": "x"}], "messages[2]: a system turn may only stand first"),
        ([{"role": "system", "content": "x"}], "messages[0]: is the only turn"),
        ([ASK, {"role": "assistant", "content": " \n"}], "messages[1].content: is empty"),
        ([ASK, {"role": "assistant", "content": None}], "messages[1].content: is missing"),
        ([ASK, {"role": "assistant", "content": 2}], "messages[1].content: must be a string"),
        ([ASK, {"role": "assistant", "content": []}], "messages[1].content: is empty"),
        (
            [ASK, {"role": "assistant", "content": "a\ud800"}],
            "messages[1].content: has a lone surrogate at character 1",
        ),
        ([ASK, {"role": "critic", "content": "a"}], 'messages[1]: unknown role "critic"'),
        ([ASK, {"content": "a"}], "messages[1]: unknown role null"),
        ([ASK, "二。"], "messages[1]: must be an object with a role and a content"),
        ([ASK, {**SAY, "loss_weight": -1}], "messages[1].loss_weight: must be a number of at least 0"),
        ([ASK, {**SAY, "loss_weight": True}], "messages[1].loss_weight: must be a number of at least 0"),
        ([ASK, {"role": "assistant", "content": None, "tool_calls": [{}]}], "messages[1].tool_calls[0]: must be"),
        (
            [ASK, {"role": "assistant", "content": [{"type": "image"}]}],
            'messages[1].content[0]: only parts of type text are read, not "image"',
        ),
        ([], "messages: must be a list with at least one turn"),
        (None, "messages: is missing"),
    ],
)
def test_every_malformed_conversation_is_named_by_row_and_field(turns: object, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": turns}) + "\n", encoding="ascii")
    (problem,) = faults_of(path)
    assert problem.startswith(f":1 {fault}")


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"instruction": "一加一？", "output": ""}, "output: is empty"),
        ({"instruction": "一加一？"}, "output: is missing"),
        ({"instruction": "", "input": "", "output": "二。"}, "instruction: is empty"),
        (
            {"instruction": "三", "output": "四", "history": [["只有问"]]},
            "history[0]: must be a [question, answer] pair",
        ),
        ({"instruction": "三", "output": "四", "history": [["问", ""]]}, "history[0][1]: is empty"),
        ({"instruction": "三", "output": "四", "system": 3}, "system: must be a string"),
        ({"instruction": "三", "output": "四", "label": False}, "label: marks the answer as good or bad"),
    ],
)
def test_every_malformed_instruction_is_named_by_row_and_field(
    row: dict[str, object], fault: str, tmp_path: Path
) -> None:
    good = {"instruction": "一加一？", "output": "二。"}
    (problem,) = faults_of(write(tmp_path / "alpaca.jsonl", [good, row]))
    assert problem.startswith(f":2 {fault}")


def test_all_problems_of_all_files_are_reported_at_once(tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", [{"messages": [ASK]}, {"messages": [ASK, SAY]}, {"messages": [SAY, SAY]}])
    one.write_text(one.read_text(encoding="utf-8") + '{"messages": \n"text"\n', encoding="utf-8")
    two = write(tmp_path / "two.jsonl", [{"title": "no chat", "body": "x"}])
    with pytest.raises(InputError) as caught:
        read_chats([one, two, tmp_path / "three.jsonl", tmp_path / "four.csv"])
    problems = caught.value.problems
    assert problems[0].startswith(f"{two} is in no known format: its rows have the fields body, title; expected")
    assert problems[1:3] == [
        f"{tmp_path / 'three.jsonl'} does not exist",
        f"{tmp_path / 'four.csv'} is not one of .json, .jsonl (each also with .gz, .zst, .xz or .bz2)",
    ]
    assert [problem.split(" ")[0] for problem in problems[3:-1]] == [f"{one}:{row}" for row in (1, 3, 4, 5)]
    assert "begins with the assistant" in problems[4] and "two assistant turns in a row" in problems[4]
    assert "row: is not valid JSON" in problems[5]
    assert "row: is a string, not an object" in problems[6]
    assert problems[-1] == "4 malformed rows in all"


def test_the_list_of_problems_is_capped_and_counts_the_rest(tmp_path: Path) -> None:
    problems = faults_of(write(tmp_path / "bad.jsonl", [{"messages": [ASK]}] * 33))
    assert len(problems) == 21
    assert problems[-1] == "and 13 more: 33 malformed rows in all"


def test_skipping_keeps_the_good_rows_and_lists_the_others(tmp_path: Path) -> None:
    rows = [{"messages": [ASK, SAY]}, {"messages": [ASK]}, {"messages": [ASK, SAY]}]
    path = write(tmp_path / "mixed.jsonl", rows)
    dataset = read_chats([path], on_problem="skip")
    assert dataset.chats == [CHAT, CHAT]
    assert [(problem.file, problem.row) for problem in dataset.skipped] == [(path, 2)]


def test_skipping_does_not_excuse_unreadable_files_or_an_empty_result(tmp_path: Path) -> None:
    bad = write(tmp_path / "bad.jsonl", [{"messages": [ASK]}])
    with pytest.raises(InputError, match="no usable row"):
        read_chats([bad], on_problem="skip")
    broken = tmp_path / "broken.jsonl.gz"
    broken.write_bytes(gzip.compress(b'{"messages": []}' * 100)[:-9])
    good = write(tmp_path / "good.jsonl", [{"messages": [ASK, SAY]}])
    with pytest.raises(InputError, match=r"broken\.jsonl\.gz cannot be read"):
        read_chats([good, broken], on_problem="skip")
    bomb = tmp_path / "bomb.jsonl.zst"
    with zstandard.open(bomb, "wb") as stream:
        for _ in range(200):
            stream.write(b"[" * 1_000_000)
    with pytest.raises(InputError, match=r"bomb\.jsonl\.zst cannot be read \(it unpacks to .* times its size\)"):
        read_chats([bomb], on_problem="skip")
    (tmp_path / "empty.jsonl").write_bytes(b"\n")
    with pytest.raises(InputError, match=r"empty\.jsonl has no rows"):
        read_chats([good, tmp_path / "empty.jsonl"], on_problem="skip")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [ASK], "chosen": "二。", "rejected": "三。"},
        {"prompt": "一加一？", "chosen": "二。", "rejected": "三。"},
        {"instruction": "一加一？", "input": "", "chosen": "二。", "rejected": "三。"},
        {
            "conversations": [{"from": "human", "value": "一加一？"}],
            "chosen": {"from": "gpt", "value": "二。"},
            "rejected": {"from": "gpt", "value": "三。"},
        },
        {"messages": [ASK], "chosen": [SAY], "rejected": [{"role": "assistant", "content": "三。"}]},
        {"chosen": [ASK, SAY], "rejected": [ASK, {"role": "assistant", "content": "三。"}]},
        {
            "prompt": "一加一？",
            "messages": [ASK, SAY],
            "chosen": [ASK, SAY],
            "rejected": [ASK, {"role": "assistant", "content": "三。"}],
        },
    ],
)
def test_each_preference_format_gives_the_same_pair(row: dict[str, object], tmp_path: Path) -> None:
    dataset = read_preferences([write(tmp_path / "pairs.jsonl", [{**row, "lang": "zh"}])])
    assert dataset.preferences == [Preference([CHAT[0]], "二。", "三。", "zh")]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (
            {"prompt": [ASK, SAY], "chosen": "二。", "rejected": "三。"},
            "prompt[1]: the prompt ends with an assistant turn",
        ),
        ({"prompt": [ASK], "chosen": "二。", "rejected": " 二。"}, "rejected: is the same text as chosen"),
        ({"prompt": [ASK], "chosen": "", "rejected": "三。"}, "chosen: is empty"),
        ({"prompt": [ASK], "chosen": "二。", "rejected": None}, "rejected: is missing"),
        ({"prompt": [], "chosen": "二。", "rejected": "三。"}, "prompt: must be a list with at least one turn"),
    ],
)
def test_every_malformed_pair_is_named_by_row_and_field(row: dict[str, object], fault: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_preferences([write(tmp_path / "pairs.jsonl", [row])])
    assert f"pairs.jsonl:1 {fault}" in caught.value.problems[0]


# (file, usable rows, malformed rows)
REAL_CHATS = [
    ("alpaca_en_15k", 14995, 5),
    ("sharegpt_zh_1k", 992, 8),
    ("oasst1_zh_sft", 560, 0),
    ("kdconv_multiturn_zh", 900, 0),
    ("moss_multiturn", 620, 0),
    ("moss_with_plugins_raw", 100, 0),
    ("llamafactory_glaive_toolcall_zh_demo", 300, 0),
    ("llamafactory_v1_sft_demo", 500, 0),
]


@pytest.mark.parametrize(("name", "usable", "malformed"), REAL_CHATS)
def test_real_conversations_are_read_and_each_row_is_accounted_for(name: str, usable: int, malformed: int) -> None:
    path = REAL / "sft" / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    dataset = read_chats([path], on_problem="skip")
    assert (len(dataset.chats), len(dataset.skipped)) == (usable, malformed)
    assert all(chat[-1].role == "assistant" and chat[-1].content.strip() for chat in dataset.chats)


@pytest.mark.parametrize(("name", "usable", "malformed"), [("hh_harmless_en", 2200, 4), ("oasst1_zh_rm", 535, 0)])
def test_real_preferences_are_read_and_each_row_is_accounted_for(name: str, usable: int, malformed: int) -> None:
    path = REAL / "preference" / f"{name}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not here")
    dataset = read_preferences([path], on_problem="skip")
    assert (len(dataset.preferences), len(dataset.skipped)) == (usable, malformed)


@pytest.mark.parametrize("field", ["mask", "training", "train_detail", "loss"])
def test_a_field_by_which_others_choose_what_is_learned_is_a_fault(field: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"messages": [ASK, {**SAY, field: True}]}])
    assert faults_of(path) == [f":1 messages[1].{field}: is not read, but chooses what is learned: use loss_weight"]


def test_pictures_that_are_not_read_are_a_fault(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"messages": [ASK, SAY], "images": ["a.jpg"], "videos": None}])
    assert faults_of(path) == [":1 images: is not read, so the model would learn to speak of what it never sees"]


def test_a_pretty_printed_object_is_one_row(tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps({"messages": [ASK, SAY]}, indent=2, ensure_ascii=False))
    assert read_chats([tmp_path / "one.json"]).chats == [CHAT]


def test_a_row_nested_too_deeply_is_a_fault_of_that_row(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"messages": [ASK, SAY]}])
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"messages": ' + "[" * 100_000 + "\n")
    assert faults_of(path) == [":2 row: is nested too deeply to be a row"]
    assert read_chats([path], on_problem="skip").chats == [CHAT]
    (tmp_path / "b.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="is nested too deeply to be a list of rows"):
        read_chats([tmp_path / "b.json"])


def test_preference_pairs_spelled_reject_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"prompt": "一加一？", "chosen": "二。", "reject": "三。"}])
    assert read_preferences([path]).preferences == [Preference([CHAT[0]], "二。", "三。")]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "一加一？", "completion": "二。", "label": False},
        {"prompt": [ASK], "completion": [SAY], "label": False},
        {"messages": [ASK, SAY], "kto_tag": False},
        {"instruction": "一加一？", "output": "二。", "kto_tag": False},
    ],
)
def test_each_format_gives_the_same_verdict(row: dict[str, object], tmp_path: Path) -> None:
    assert read_verdicts([write(tmp_path / "rows.jsonl", [row])]).verdicts == [Verdict(CHAT, False)]


def test_a_verdict_that_is_neither_true_nor_false_is_named(tmp_path: Path) -> None:
    rows = [{"prompt": "a", "completion": "b", "label": label} for label in (True, 1, None)]
    with pytest.raises(InputError) as raised:
        read_verdicts([write(tmp_path / "rows.jsonl", rows)])
    assert [problem.partition("jsonl:")[2] for problem in raised.value.problems[:2]] == [
        "2 label: must be true or false",
        "3 label: must be true or false",
    ]
    with pytest.raises(InputError, match="label or kto_tag"):
        read_verdicts([write(tmp_path / "chats.jsonl", [{"prompt": "a", "completion": "b"}])])
