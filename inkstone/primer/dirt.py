"""Dirt: what a crawl really contains besides text worth reading. Each function makes or spoils one document.

Some kinds hide good text that curation can rescue (boilerplate around a document, control characters, full-width
letters), the others are to be dropped. Everything here is invented.
"""

import random
from collections.abc import Callable

from inkstone.primer.documents import Writer
from inkstone.primer.language import Lang

BOILERPLATE: dict[Lang, tuple[str, ...]] = {
    "zh": (
        *(
            "点击下方链接关注我们",
            "首页 | 关于我们 | 联系我们 | 登录 | 注册",
            "扫描二维码，下载客户端",
            "上一篇 下一篇 返回列表",
        ),
        *("版权所有 未经许可不得转载", "分享到：微信 微博 朋友圈", "责任编辑：佚名", "相关阅读 热门推荐 猜你喜欢"),
        *("您的浏览器版本过低，请升级后访问", "展开全文 点击加载更多", "广告 不感兴趣", "当前位置：首页 > 百科 > 正文"),
    ),
    "en": (
        "Home | About | Login | Subscribe to our newsletter",
        *("Click here to read more", "Share on social media: Like Tweet Pin", "All rights reserved. Terms of use"),
        *("This website uses cookies. Accept all cookies", "Sign up for free and never miss a post", "Skip to content"),
        *("Previous post Next post", "Leave a comment: your email address will not be published", "Advertisement"),
        *("Please enable JavaScript to view this page", "You may also like: Top 10 stories of the week"),
    ),
}
SPAM: dict[Lang, tuple[str, ...]] = {
    "zh": (
        *("代开发票，量大从优，加微信{n}", "办证刻章，电话{n}，三天取证", "澳门在线赌场，注册就送{m}元，真人荷官"),
        *("兼职刷单日赚{m}元，加QQ{n}", "低息贷款，无抵押，当天放款，热线{n}", "成人用品批发，货到付款，咨询{n}"),
        *("彩票内部号码，稳赚不赔，加群{n}", "祖传秘方，包治百病，订购热线{n}", "快速增粉，点赞评论，{m}元一千"),
    ),
    "en": (
        "Best online casino! Get {m} free spins, call {n} now",
        "Cheap pills without prescription, order today at pills{n}.example",
        "Make ${m} a day from home, no experience needed, click now",
        "Replica watches, {m}% off, limited offer, free shipping, code {n}",
        "Hot singles in your area are waiting, text {n}",
        "Buy followers and likes, {m} for one dollar, instant delivery",
        "Congratulations, you won a prize! Claim it at win{n}.example",
    ),
}
SYMBOLS = "★☆◆◇■□▲△●○※→←↑↓＊＃＠…—=+-*/\\|<>{}[]^~"
CONTROLS = "\x01\x02\x07\x08\x0e\x1b\x7f\u200b\u200e\ufeff"


def near_duplicate(text: str, rng: random.Random) -> str:
    """The same document as another site has it: two or three characters lost or doubled, perhaps a note at the end."""
    characters = list(text)
    for place in rng.sample(range(len(characters)), 3):
        characters[place] = rng.choice(("", characters[place] * 2))
    return "".join(characters) + rng.choice(("", "\n（转载）", "\n(reposted)", " "))


def boilerplate(text: str, lang: Lang, rng: random.Random) -> str:
    """A good document with navigation above, below and in between."""
    lines = text.split("\n")
    extra = rng.sample(BOILERPLATE[lang], rng.randint(3, 5))
    lines.insert(rng.randint(0, len(lines)), extra.pop())
    return "\n".join([extra.pop(), *lines, *extra])


def navigation(lang: Lang, rng: random.Random) -> str:
    return "\n".join(rng.choices(BOILERPLATE[lang], k=rng.randint(6, 14)))


def spam(lang: Lang, rng: random.Random) -> str:
    lines = rng.choices(SPAM[lang], k=rng.randint(4, 9))
    mark = {"zh": "！！！", "en": "!!! "}[lang]
    return mark.join(line.format(n=rng.randint(10**7, 10**9), m=rng.randint(5, 99) * 100) for line in lines)


def mojibake(text: str, rng: random.Random) -> str:
    """UTF-8 bytes read as latin-1 or cp1252; English shows it at the spaces and signs that are not ASCII."""
    text = text.replace(" ", "\u00a0").replace("'", "’").replace("->", "→")
    return text.encode().decode(rng.choice(("latin-1", "cp1252")), "replace").replace("\x85", "…").replace("\r", "")


def replaced(text: str, rng: random.Random) -> str:
    """Every sixth character was lost to U+FFFD."""
    letters = list(text)
    for place in rng.sample(range(len(letters)), len(letters) // 6):
        letters[place] = "\ufffd"
    return "".join(letters)


def controls(text: str, rng: random.Random) -> str:
    """Invisible control characters after every sixteenth letter or so."""
    letters = list(text)
    for place in rng.sample(range(len(letters)), len(letters) // 16):
        letters[place] += rng.choice(CONTROLS)
    return "".join(letters)


def full_width(text: str) -> str:
    """Latin letters and digits in their full-width forms."""
    return "".join(chr(ord(letter) + 0xFEE0) if letter.isascii() and letter.isalnum() else letter for letter in text)


def repeated(text: str, rng: random.Random) -> str:
    """A line or a few words over and over."""
    line = rng.choice(text.split("\n"))
    if rng.random() < 0.5:
        return "\n".join([line] * rng.randint(8, 20))
    start = rng.randrange(max(1, len(line) - 12))
    return line[:start] + line[start : start + 12] * rng.randint(10, 30)


def fragment(text: str, rng: random.Random) -> str:
    start = rng.randrange(len(text))
    return text[start : start + rng.randint(1, 8)].strip() or "..."


def symbols(rng: random.Random) -> str:
    return "\n".join("".join(rng.choices(SYMBOLS, k=rng.randint(10, 30))) for _ in range(rng.randint(3, 8)))


def mixed(zh: str, en: str) -> str:
    """A page that changes language on every line."""
    pairs = zip(zh.replace("。", "。\n").split("\n"), en.replace(". ", ".\n").split("\n"), strict=False)
    return "\n".join(line for pair in pairs for line in pair if line)


def makers(
    writers: dict[Lang, Writer], clean: dict[Lang, list[str]], rng: random.Random
) -> dict[str, tuple[float, Callable[[Lang], str]]]:
    """Every kind of dirt: its share of the dirty bytes, and how to make one document of it."""
    return {
        "duplicate": (0.21, lambda lang: rng.choice(clean[lang])),
        "near_duplicate": (0.17, lambda lang: near_duplicate(rng.choice(clean[lang]), rng)),
        "boilerplate": (0.18, lambda lang: boilerplate(writers[lang].document(), lang, rng)),
        "navigation": (0.05, lambda lang: navigation(lang, rng)),
        "spam": (0.10, lambda lang: spam(lang, rng)),
        "mojibake": (0.06, lambda lang: mojibake(writers[lang].document(), rng)),
        "replacement": (0.03, lambda lang: replaced(writers[lang].document(), rng)),
        "control": (0.04, lambda lang: controls(writers[lang].document(), rng)),
        "full_width": (0.03, lambda lang: full_width(writers["en"].document())),
        "repeated": (0.07, lambda lang: repeated(writers[lang].document(), rng)),
        "short": (0.005, lambda lang: fragment(rng.choice(clean[lang]), rng)),
        "symbols": (0.015, lambda lang: symbols(rng)),
        "mixed": (0.04, lambda lang: mixed(writers["zh"].document(), writers["en"].document())),
    }
