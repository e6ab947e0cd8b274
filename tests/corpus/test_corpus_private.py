"""Private data: what is planted is masked, what only looks like it stays."""

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from inkstone.corpus.judge.operator_settings import PrivateSettings
from inkstone.corpus.judge.private import mask, private_spans, valid_bank_card, valid_identity_number
from inkstone.corpus.judge.repair import repair

PLANTED = [
    ("email", "wang.li+work@mail.example.com.cn"),
    ("email", "user6538@example.org"),
    ("ip", "203.0.113.77"),
    ("phone", "17643811914"),
    ("phone", "+86 138-1234-5678"),
    ("phone", "010-62751234"),
    ("phone", "(0755) 86013388"),
    ("phone", "+44 20 7946 0958"),
    ("phone", "951-704-3374"),
    ("id_number", "11010519491231002X"),
    ("bank_card", "6222 0212 3456 7890 128"),
    ("bank_card", "4539148803436467"),
    ("secret_url", "https://user:hunter22@host.example.com/x"),
    ("secret_url", "https://api.example.com/v1/list?page=2&access_token=a8f5f167f44f4964"),
]
SPELLED = [  # as people write them: other separators, brackets, full-width signs, no + before the country
    ("email", "ｌｉｍｉｎｇ＠ｅｘａｍｐｌｅ．ｃｏｍ"),
    ("email", "test@example．com"),
    ("email", "zhang@example。com"),
    ("ip", "１１４．２４７．５０．２"),
    ("phone", "（010）62345678"),
    ("phone", "（010）62345678转801"),
    ("phone", "010-6234-5678"),
    ("phone", "021 6234 5678"),
    ("phone", "0755-8234 5678"),
    ("phone", "8613812345678"),
    ("phone", "86-13912345679"),
    ("phone", "+86(138)12345678"),
    ("phone", "139\u20111234\u20115678"),
    ("phone", "139\u20131234\u20135678"),
    ("phone", "139-123-45678"),
    ("phone", "139.1234.5678"),
    ("phone", "+81-3-1234-5678"),
    ("phone", "+61 412 345 678"),
    ("phone", "415.555.0132"),
    ("id_number", "110105 19491231 002X"),
]
BESIDE = [  # the words beside a number decide
    ("总机", "phone", "（010）62345678转801", "。"),
    ("座机 ", "phone", "0755-8234 5678", ""),
    ("tel", "phone", "13912345678", ""),
    ("DNS 设为 ", "ip", "8.8.8.8", "。"),
    ("ping ", "ip", "1.1.1.1", " -c 3"),
    ("The server at ", "ip", "8.8.8.8", " answers."),
]
INNOCENT = [
    "Revenue grew by +100 000 000 last year; the loss was -20 000 000.",
    "用户数 +200 000 000，利润 +12 345 678 901 元。",
    "见第 3.12.45.67 节，以及 section 12.34.56.78 of the RFC。",
    "卡号 1391234 5678 9012 不是电话，139 1234 5678 9012 也不是。",
    "比例 1391234.5678 与 139.12345678，版本 8.8.8.8 和 1.1.1.1。",
    "我用Python。Java也会@公司。谢谢",
    "版本 1.8.0.5 于 2023-11-21 10:00:00 发布，局域网地址 192.168.1.10 与 127.0.0.1。",
    "git clone git@github.com:me/repo.git",
    "订单 20231121123456789 共 3 件，ISBN 978-7-302-12345-6，圆周率 3.14159265358979。",
    "热线 400-000-7002，邮编 100084，区间 1990-2000，约 13 亿。",
    "110101197410054850 的校验位不对，4539148803436468 也不对。",
    "见 https://example.com/page?id=3#section 与 @某人。",
    "f(x) = 1234567 + 89; a[0][1] = 0x42015554 1107383636",
]
LONG = "x" * 300 + " 12 345 " * 40 + "号："
REAL = PrivateSettings()


@pytest.mark.parametrize(("kind", "value"), PLANTED)
def test_private_data_is_masked_wherever_it_stands(kind: str, value: str) -> None:
    for before, after in (("", ""), ("联系人：张三，", "。谢谢"), ("Contact ", " today; "), (LONG, "\n" + "y" * 300)):
        done = mask(pa.array(["nothing here", before + value + after]), REAL)
        assert done.texts.to_pylist() == ["nothing here", f"{before}<|{kind}|>{after}"]
        assert {name: dict(rows) for name, rows in done.found.items()} == {kind: {1: 1}}


@pytest.mark.parametrize(("kind", "value"), SPELLED)
def test_private_data_is_masked_however_it_is_written(kind: str, value: str) -> None:
    for before, after in (("", ""), ("联系人：张三，", "。谢谢"), ("Contact ", " today;"), (LONG, "\n" + "y" * 300)):
        repaired, _ = repair(pa.array([before + value + after]))
        assert mask(repaired, REAL).texts.to_pylist() == [f"{before}<|{kind}|>{after}"]


@pytest.mark.parametrize(("before", "kind", "value", "after"), BESIDE)
def test_words_beside_a_number_count(before: str, kind: str, value: str, after: str) -> None:
    assert mask(pa.array([before + value + after]), REAL).texts.to_pylist() == [f"{before}<|{kind}|>{after}"]


@pytest.mark.parametrize("text", INNOCENT)
def test_what_only_looks_like_private_data_stays(text: str) -> None:
    assert mask(pa.array([text]), REAL).texts.to_pylist() == [text]


def test_kinds_and_replacement_are_settings() -> None:
    text = "user6538@example.org 与 17643811914"
    only = mask(pa.array([text]), PrivateSettings(kinds=["phone"], replacement="[{kind}]"))
    assert only.texts.to_pylist() == ["user6538@example.org 与 [phone]"]
    assert mask(pa.array([text]), PrivateSettings(kinds=[])).texts.to_pylist() == [text]


@given(st.integers(10**16, 10**17 - 1))
def test_identity_numbers_have_one_valid_check_digit(number: int) -> None:
    assert sum(valid_identity_number(f"{number}{check}") for check in "0123456789X") == 1


@given(st.integers(10**14, 10**15 - 1))
def test_bank_cards_have_at_most_one_valid_check_digit(number: int) -> None:
    assert sum(valid_bank_card(f"4{number}"[:15] + str(check)) for check in range(10)) <= 1


@settings(max_examples=200, deadline=None)
@given(st.text("0123456789 -.@:/?=+()xX年a（）\u2011", max_size=120))
def test_looking_only_around_triggers_finds_all_that_a_full_search_finds(text: str) -> None:
    found = mask(pa.array([text]), REAL)
    assert sum(rows.total() for rows in found.found.values()) == len(private_spans(text))
