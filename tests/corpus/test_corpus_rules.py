"""Document rules: each catches its kind of rubbish with the measured value, none catches verse or prose."""

import random

import pyarrow as pa
import pytest
from pydantic import ValidationError

from inkstone.corpus.judge.kernel import flatten, tokenize
from inkstone.corpus.judge.measures import measure
from inkstone.corpus.judge.rules import LIMITS, OTHER_KEYS, Verdicts, judge, key_of
from inkstone.corpus.settings import CorpusSettings

PROSE_ZH = (
    "我们在河边住了三年，每天早晨都能听见船夫唱歌。后来桥修好了，渡船不再需要，歌声也就没有了。"
    "父亲说，有些东西去了便不会回来，可是他自己仍旧常常走到旧渡口，站着看水。"
)
PROSE_EN = (
    "We lived beside the river for three years, and every morning we heard the boatmen sing. Then the bridge was "
    "built, nobody needed the ferry, and the songs were gone. My father said that some things do not come back, but "
    "he often walked to the old landing and looked at the water."
)
DISHES = ["红烧肉", "清蒸鱼", "蛋花汤", "小笼包", "阳春面", "八宝粥", "狮子头", "炒年糕"]
LONG_WORDS = "incomprehensibilities counterrevolutionaries institutionalizations telecommunications "
VERSE = [
    "登鹳雀楼\n王之涣\n白日依山尽，黄河入海流。\n欲穷千里目，更上一层楼。",
    "靜夜思\n李白\n牀前明月光，疑是地上霜。\n舉頭望明月，低頭思故鄉。",
    "白日依山尽，黄河入海流。欲穷千里目，更上一层楼。",
    "如梦令\n李清照\n常记溪亭日暮。\n沉醉不知归路。\n兴尽晚回舟，误入藕花深处。\n争渡。\n争渡。\n惊起一滩鸥鹭。",
    "天净沙·秋思\n马致远\n枯藤老树昏鸦，小桥流水人家，古道西风瘦马。夕阳西下，断肠人在天涯。",
    "关雎 · 国风 周南\n关关雎鸠，在河之洲。窈窕淑女，君子好逑。\n参差荇菜，左右流之。窈窕淑女，寤寐求之。",
    "ROMEO:\nBut, soft! what light through yonder window breaks?\nIt is the east, and Juliet is the sun.",
]


def verdicts(texts: list[str], **settings: object) -> Verdicts:
    flat = flatten(pa.array(texts, pa.string()))
    tokens = tokenize(flat)
    return judge(CorpusSettings.model_validate(settings), measure(flat, tokens), tokens)


def rule_of(text: str, **settings: object) -> str:
    return verdicts([text], **settings).rule[0]


NAMED = [  # encyclopedia paragraphs that say one long name again and again: a person, a species, a place, a product
    "长宗我部元亲是日本战国时代的大名。长宗我部元亲生于土佐国，父亲去世以后，长宗我部元亲继承家业，平定了邻近的豪族。"
    "十年之间，长宗我部元亲几乎统一四国，但是在秀吉出兵以后，长宗我部元亲只好投降，领地也只剩下土佐一国。晚年的长宗我部元亲"
    "因为长子战死而消沉，不久病逝于伏见。后人说起长宗我部元亲，多半称赞他治理领国的法令。",
    "乌尔巴克齿龙生活在白垩纪晚期的中亚。乌尔巴克齿龙的牙齿细小而多，与同类不同。第一块乌尔巴克齿龙化石出自一处河谷，"
    "后来人们认为乌尔巴克齿龙以植物的嫩叶为食。由于材料太少，乌尔巴克齿龙究竟属于哪一科仍有争议；有人把乌尔巴克齿龙归入鸭嘴龙类，"
    "也有人认为乌尔巴克齿龙只是一个存疑的名字。",
    "埃斯特雷马杜拉位于西班牙西部，与葡萄牙相邻。历史上的埃斯特雷马杜拉以牧羊闻名，冬天北方的羊群都赶到埃斯特雷马杜拉过冬。"
    "今天埃斯特雷马杜拉出产软木、樱桃和火腿，许多去过美洲的人也出生在埃斯特雷马杜拉。乘火车从马德里到埃斯特雷马杜拉大约要四个小时，"
    "夏天的埃斯特雷马杜拉十分炎热。",
    "The Kung Fu Panda films follow a bear who learns to fight. The first Kung Fu Panda came out in 2008; critics "
    "liked how Kung Fu Panda drew its hills and rivers. After a second Kung Fu Panda film, the studio made a series "
    "for children, and Kung Fu Panda toys were sold everywhere. In China, Kung Fu Panda led to a debate about why "
    "nobody there had made it. A fourth Kung Fu Panda followed much later, with new Kung Fu Panda characters.",
]


@pytest.mark.parametrize("text", NAMED)
def test_one_name_again_and_again_condemns_no_paragraph(text: str) -> None:
    assert rule_of(text) == ""


@pytest.mark.parametrize("text", [
    "白日依山尽黄河入海流欲穷千里目更上一层楼",
    "牀前明月光疑是地上霜舉頭望明月低頭思故鄉",
    "两个黄鹂鸣翠柳一行白鹭上青天窗含西岭千秋雪门泊东吴万里船",
])  # fmt: skip
def test_verse_written_without_marks_is_no_fragment(text: str) -> None:
    assert rule_of(text) == ""
    assert rule_of(text[:-1]) == "fragment"


@pytest.mark.parametrize("text", [PROSE_ZH, PROSE_EN, PROSE_ZH + PROSE_EN, *VERSE])
def test_prose_and_verse_break_no_rule(text: str) -> None:
    assert rule_of(text) == ""


def test_lists_tables_of_pairs_and_sums_break_no_rule() -> None:
    rng = random.Random(1)
    sums = [f"{a}+{b}={a + b}" for a, b in ((rng.randint(10, 99), rng.randint(10, 99)) for _ in range(12))]
    assert rule_of("算术练习\n" + "\n".join(sums)) == ""
    assert rule_of("Hamlet->Shakespeare\nEmma->Jane Austen\nDracula->Bram Stoker\nUlysses->James Joyce") == ""
    assert rule_of("金->Au\n银->Ag\n铁->Fe\n铜->Cu\n锡->Sn\n铅->Pb\n汞->Hg\n锌->Zn") == ""


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        ("replacement_characters", PROSE_ZH[:60] + "\ufffd" * 3 + PROSE_ZH[60:]),
        ("replacement_characters", PROSE_ZH + "锟斤拷锟斤拷" + PROSE_ZH),
        ("too_short", "黄河入海流。"),
        ("too_short", "To the point."),
        ("fragment", "杨树浦路\n杨树浦路是上海市虹口区与杨浦"),
        ("fragment", "The first of the long train of events that"),
        ("symbols", "水★★☆☆◆◆□□■■火→→←←↑↑↓↓\n" * 2 + "木△△▲▲◎◎○○●●金§§※※¤¤土水火木金土日月山川风"),
        ("not_alphabetic", "共 12 项 " + " ".join(str(n * 7919) for n in range(40))),
        ("repeated_lines", PROSE_ZH + ("\n" + PROSE_ZH) * 3),
        ("top_3gram", PROSE_ZH[:20] + "哈哈，" * 40),
        ("top_3gram", "今天 我们 说 " + "，".join(f"风调雨顺{mark}" for mark in "甲乙丙丁戊己庚辛壬癸")),
        ("top_3gram", "海底一尾鱼儿慢慢地游过" + "，海底一尾鱼儿慢慢地游过" * 9),
        ("repeated_8gram", PROSE_ZH * 3),
        ("repeated_5gram", PROSE_EN + (" " + PROSE_EN) * 2),
        ("bullet_lines", "\n".join(f"- {x}" for x in DISHES)),
        ("ellipsis_lines", "他走了，桥还在……\n她来了，船没了……\n天又黑了，灯灭了……"),
        ("spam", "代开发票加微信13800000000，低息贷款当天放款，货到付款热线4000000000，欢迎各位老板来电咨询。"),
        ("spam", "Click here for free shipping! Buy now, limited time offer, best price, call now 5551234567."),
        ("short_words", "a b c d e f g h i j k l m n o p q r s t u v w x y z."),
        ("long_words", LONG_WORDS * 2 + "of us all."),
        ("stop_words", " ".join(f"word{'abcdefghij'[n % 10]}{'klmnopqrst'[n // 10]}" for n in range(100)) + " and so."),
        ("language", "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。"),
        ("language", "Широка страна моя родная, много в ней лесов, полей и рек."),
        ("language", "★★★★★ ♥♥♥♥ →→→"),
    ],
)  # fmt: skip
def test_each_kind_of_rubbish_breaks_its_rule(rule: str, text: str) -> None:
    off = {} if rule == "short_words" else {"rules": {"en": {"min_word_length": 0}}}
    found = verdicts([PROSE_ZH, text, PROSE_EN], **off)
    assert found.rule == ["", rule, ""]
    if rule in LIMITS:
        _, setting, minimum = LIMITS[rule]
        assert (found.value[1] < found.threshold[1]) == minimum
        rules = CorpusSettings.model_validate(off).rules
        assert rules.limit(found.lang[1], found.table[1], setting) == (found.threshold[1], found.table[1])


def test_relaxing_the_named_key_lets_the_document_pass() -> None:
    text = PROSE_ZH + ("\n" + PROSE_ZH) * 3
    relaxed: dict[str, object] = {}
    for _ in range(12):
        found = verdicts([text], rules={"zh": relaxed})
        if not found.rule[0]:
            break
        _, _, table, setting, *size = key_of(found.rule[0], found.table[0]).split(".")
        assert table == "zh" and (size or setting not in relaxed)
        relaxed[setting] = {**relaxed.get(setting, {}), size[0]: 1} if size else 1  # type: ignore[dict-item]
    assert found.rule == [""] and len(relaxed) > 1


@pytest.mark.parametrize("rule", [*LIMITS, *OTHER_KEYS, "fragment"])
@pytest.mark.parametrize("lang", ["zh", "en", "mixed", "other"])
def test_every_rule_names_a_key_that_exists(rule: str, lang: str) -> None:
    value: object = CorpusSettings()
    for name in key_of(rule, lang).split(".")[1:]:
        value = {} if isinstance(value, dict) and name.isdigit() else getattr(value, name)
    assert value is not None


def test_banned_phrases_match_whole_words_blind_for_case_and_punctuation() -> None:
    banned = ["old LANDING", "旧渡口"]
    assert rule_of(PROSE_EN, banned_phrases=banned) == "banned_phrase"
    assert rule_of(PROSE_ZH, banned_phrases=banned) == "banned_phrase"
    assert rule_of(PROSE_EN.replace("landing", "landings"), banned_phrases=banned) == ""


@pytest.mark.parametrize(
    ("lang", "text"),
    [
        ("zh", PROSE_ZH),
        ("zh", "子曰：「學而時習之，不亦說乎？」"),
        ("zh", "用 Python 的 list 保存结果，再调用 sort 函数排序，最后返回第一个元素。"),
        ("en", PROSE_EN),
        ("mixed", "这是一段说明文字。 " + PROSE_EN),
        ("other", "これは水です。"),
        ("other", "대한민국의 수도는 서울이다."),
        ("other", "12345 67890"),
        ("other", ""),
    ],
)
def test_language_is_decided_by_script(lang: str, text: str) -> None:
    assert verdicts([text]).lang == [lang]


def test_a_genre_table_comes_over_the_language_table() -> None:
    rules = CorpusSettings().rules
    assert rules.limit("zh", "verse", "max_newline_share") == (1.0, "verse")
    assert rules.limit("zh", "prose", "max_newline_share") == (0.178, "zh")
    assert rules.limit("zh", "verse", "max_spam_share") == (0.04, "zh")
    assert rules.limit("other", "prose", "min_tokens") == (rules.mixed.min_tokens, "mixed")


def test_every_language_table_names_every_limit() -> None:
    for lang in ("zh", "en", "mixed"):
        table = getattr(CorpusSettings().rules, lang)
        assert None not in table.model_dump().values() and table.max_top_ngram_share and table.max_repeated_ngram_share


@pytest.mark.parametrize(
    ("genre", "text"),
    [
        ("prose", PROSE_ZH),
        ("prose", PROSE_EN),
        *(("verse", text) for text in VERSE[:6]),
        ("list", VERSE[6] + "\nROMEO:\nIt is my lady, O, it is my love!"),
        ("list", "Q: Where is Paris?\nA: In France.\nQ: Where is Rome?\nA: In Italy."),
        ("code", "def add(a, b):\n    total = a + b\n    return total\n\n\nprint(add(1, 2))"),
        ("code", '{"name": "ink", "size": [1, 2, 3], "open": {"a": 1}}'),
        ("code", "\\begin{equation} \\alpha_{i} = \\frac{1}{n} \\sum_{j=1}^{n} x_{ij} \\end{equation}"),
    ],
)
def test_genre_is_decided_by_shape(genre: str, text: str) -> None:
    assert verdicts([text]).genre == [genre]
    assert verdicts([text], genres=[genre]).rule != ["genre"]
    others = [name for name in ("prose", "verse", "code", "list") if name != genre]
    assert verdicts([text], genres=others).rule == ["genre"]


def test_one_limit_in_a_recipe_keeps_the_other_defaults_of_its_language() -> None:
    settings = CorpusSettings.model_validate({"rules": {"en": {"min_tokens": 3}}})
    defaults = CorpusSettings().rules
    assert settings.rules.en == defaults.en.model_copy(update={"min_tokens": 3})
    one = CorpusSettings.model_validate({"rules": {"en": {"max_top_ngram_share": {"2": 0.9}}}}).rules.en
    assert one.max_top_ngram_share == {**defaults.en.max_top_ngram_share, 2: 0.9}
    assert settings.rules.zh == defaults.zh


@pytest.mark.parametrize(
    "wrong",
    [
        {"rules": {"en": {"min_token": 3}}},
        {"rules": {"fr": {}}},
        {"rules": {"zh": {"max_symbol_share": 3}}},
        {"rules": {"zh": {"max_top_ngram_share": {"12": 0.5}}}},
        {"rules": {"en": {"max_repeated_ngram_share": {"10": 5}}}},
        {"banned_phrases": ["★★"]},
        {"heldout_fraction": 1.0},
        {"languages": []},
    ],
)
def test_settings_that_cannot_be_meant_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        CorpusSettings.model_validate(wrong)
