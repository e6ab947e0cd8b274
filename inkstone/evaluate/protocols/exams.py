"""The named protocols of C-Eval, CMMLU and MMLU. Constants only; docs/evaluate.md has a section on each."""

from dataclasses import replace

from inkstone.evaluate.protocols.protocol import Protocol

_LM_EVAL = "lm-evaluation-harness 0.4.13: one space before the scored letter, also after a full-width colon"
_OPTIONS = "\nA. {A}\nB. {B}\nC. {C}\nD. {D}"
_CEVAL = "以下是中国关于{subject}考试的单项选择题，请选出其中的正确答案。\n"
_CMMLU = "以下是关于{subject}的单项选择题，请直接给出正确答案的选项。\n"
_MMLU = "The following are multiple choice questions (with answers) about {subject}.\n\n"
_OPENCOMPASS = "OpenCompass as Huozi pins it: rounds of a conversation, the first capital letter of what is written"

_harness = Protocol(
    "",
    "lm-eval",
    _LM_EVAL,
    question="{stripped}" + _OPTIONS + "\n答案：",
    answer=" {answer}",
    ending=" {letter}",
    shots=5,
)
_opencompass = Protocol(
    "", "opencompass", _OPENCOMPASS, question="", shots=5, turns=True, score="write", until="[A-ZＡ-Ｚ]",
    max_new_tokens=512, read="first_capital", grade="letter",
)  # fmt: skip
_ppl = Protocol(
    "", "opencompass-ppl", "OpenCompass by perplexity: loss of the whole text per token, prompt included",
    question="", separator="\n", ending="{letter}", score="whole", shots=5, cut="agree", fit="drop_last",
)  # fmt: skip
_house = Protocol(
    "", "house", "begin token; no space before a letter in Chinese, one in English; cut where encodings differ",
    question="", ending="{letter}", shots=5, cut="agree", start=True, fit="drop_first",
)  # fmt: skip

EXAM_PROTOCOLS = [
    replace(
        _harness, task="ceval", header="以下是中国关于{subject}的单项选择题，请选出其中的正确答案。\n\n", shots=0,
    ),
    Protocol(
        "ceval", "official", "hkust-nlp/ceval, answer only: the letter's own token, first k examples of dev",
        header=_CEVAL + "\n", question="{question}" + _OPTIONS + "\n答案：", ending="{letter}", shots=5,
        score="letter_last", fit="drop_last",
    ),
    replace(
        _opencompass, task="ceval", header=_CEVAL, question="{question}" + _OPTIONS + "\n答案: ",
        note=_OPENCOMPASS + " (ceval_gen_5f30c7)",
    ),
    replace(_ppl, task="ceval", header=_CMMLU, question="{question}" + _OPTIONS + "\n答案: "),
    Protocol(
        "ceval", "baichuan", "Baichuan-7B evaluate_zh.py; its unseeded shuffle of the examples is seeded by the item",
        header=_CEVAL + "\n", question="{question}" + _OPTIONS + "\n答案：", separator="\n", ending="{letter}", shots=5,
        examples="shuffled", score="letter_last", start=False, limit=2048,
    ),
    replace(_house, task="ceval", header=_CEVAL + "\n", question="{stripped}" + _OPTIONS + "\n答案："),
    replace(_harness, task="cmmlu", header=_CMMLU + "\n", shots=5),
    Protocol(
        "cmmlu", "official", "haonan-li/CMMLU: the bare letter's token; too long prompts lose their longest shot first",
        header=_CMMLU + "\n", question="题目：{question}" + _OPTIONS + "\n答案是：", ending="{letter}", shots=5,
        score="letter_piece", fit="drop_longest", limit=2048,
    ),
    replace(
        _opencompass, task="cmmlu", header=_CMMLU, question="题目：{question}" + _OPTIONS, answer="答案是: {answer}",
        note=_OPENCOMPASS + " (cmmlu_gen_c13365)",
    ),
    replace(_ppl, task="cmmlu", header=_CMMLU, question="题目：{question}" + _OPTIONS + "\n答案是: "),
    replace(_house, task="cmmlu", header=_CMMLU + "\n", question="{stripped}" + _OPTIONS + "\n答案："),
    replace(_harness, task="mmlu", header=_MMLU, question="{stripped}" + _OPTIONS + "\nAnswer:"),
    Protocol(
        "mmlu", "official", "hendrycks/test: two spaces after 'about', the tokens of ' A', shots dropped from the end",
        header=_MMLU.replace("about ", "about  "), question="{question}" + _OPTIONS + "\nAnswer:", answer=" {answer}",
        ending=" {letter}", shots=5, fit="drop_last", limit=2048,
    ),
    Protocol(
        "mmlu", "baichuan", "Baichuan-7B evaluate_mmlu.py: the letter's own token, 2,048 tokens",
        header=_MMLU.replace("about ", "about  "), question="{question}" + _OPTIONS + "\nAnswer:", answer=" {answer}",
        ending="{letter}", shots=5, score="letter_last", start=False, fit="drop_last", limit=2048,
    ),
    replace(
        _opencompass, task="mmlu", read="first_option", until="", answer="{answer}\n",
        note="OpenCompass mmlu_gen_4d595a: rounds of a conversation; the option is read by our own ordered expressions",
        header="There is a single choice question about {subject}. Answer the question by replying A, B, C or D.\n",
        question="Question: {question}" + _OPTIONS + "\nAnswer: ",
    ),
    replace(
        _house, task="mmlu", header=_MMLU, question="{stripped}" + _OPTIONS + "\nAnswer:", answer=" {answer}",
        ending=" {letter}",
    ),
]  # fmt: skip
