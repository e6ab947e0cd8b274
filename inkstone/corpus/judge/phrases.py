"""Phrases as token hashes: solicitation, navigation, function words, and the user's own banned phrases.

A phrase matches whole tokens (Han characters, Latin words), blind for case, spaces and punctuation. Only positions
whose token opens some phrase are looked at further, so a long list costs hardly more than a short one.
"""

from functools import cache

import numpy as np
import pyarrow as pa

from inkstone.corpus.judge.kernel import F64, I64, U64, Mask, Tokens, flatten, member, segment_sums, tokenize

# fmt: off
STOP_WORDS = (
    "the", "of", "and", "to", "in", "a", "is", "that", "it", "for", "as", "was", "with", "be", "by", "on", "are",
    "this", "from", "or", "an", "at", "which", "not", "have", "you", "i", "his", "he",
)
STOP_CHARACTERS = tuple("的一是不了在人有我他这之大来以为于其而也者与中和上个们到时地得着就那要曰無所用可")
SPAM_PHRASES = (
    "加微信", "加我微信", "加群", "客服", "热线", "官方正品", "正规平台", "注册送", "注册就送", "秒到账",
    "限时优惠", "免费试用", "货到付款", "代办证件", "办理各类证件", "办证", "刻章", "先办后付", "诚信经营",
    "最新资源下载", "迅雷高速", "磁力", "点击领取", "代开发票", "量大从优", "赌场", "真人荷官", "在线投注",
    "时时彩", "内部号码", "稳赚不赔", "包赢", "日赚", "刷单", "无抵押", "低息贷款", "当天放款", "代写论文",
    "立即咨询", "扫码领取", "成人用品", "包治百病", "祖传秘方", "增粉", "点赞评论",
    "click here", "click now", "click the link", "buy now", "order now", "order today", "call now", "act now",
    "sign up now", "limited time offer", "limited offer", "free trial", "free shipping", "free spins", "100% free",
    "lowest price", "best price", "no prescription", "without prescription", "cheap pills", "cheap viagra",
    "online casino", "work from home", "day from home", "no experience needed", "earn money", "earn cash", "make money",
    "whatsapp us", "satisfaction guaranteed", "risk free", "replica watches", "buy followers", "instant delivery",
    "hot singles", "you won", "claim it", "claim your prize",
)
# A line that opens with one of these, and stands in several documents, is navigation.
MENU_PHRASES = (
    "首页", "您当前的位置", "当前位置", "您的位置", "上一篇", "下一篇", "上一页", "下一页", "返回列表", "返回顶部",
    "返回首页", "分享到", "相关阅读", "相关文章", "相关推荐", "热门推荐", "猜你喜欢", "版权所有", "点击展开全文",
    "责任编辑", "编辑推荐", "关于我们", "联系我们", "网站地图", "友情链接", "免责声明", "本站", "扫一扫", "登录",
    "注册", "发表评论", "网友评论", "扫描二维码", "展开全文", "点击下方", "您的浏览器", "广告",
    "home", "skip to", "share on", "share this", "copyright", "all rights reserved", "powered by", "previous post",
    "next post", "related posts", "related articles", "leave a reply", "leave a comment", "privacy policy",
    "terms of use", "terms of service", "sign up", "log in", "login", "subscribe", "click here", "read more",
    "back to top", "follow us", "contact us", "about us", "cookie", "we use cookies", "posted in", "filed under",
    "this website uses", "this site uses", "please enable", "you may also like", "advertisement",
)
# A short line that holds one of these is a notice of the page, wherever it stands (after C4).
WEB_PHRASES = (
    "terms of use", "terms of service", "privacy policy", "cookie policy", "uses cookies", "use of cookies",
    "use cookies", "accept cookies", "enable javascript", "javascript is disabled", "javascript must be enabled",
    "requires javascript", "browser does not support", "lorem ipsum", "all rights reserved", "skip to main content",
    "请启用javascript", "浏览器不支持", "浏览器版本过低", "扫码下载客户端", "点击下载客户端", "版权所有违者必究",
    "未经授权不得转载", "未经许可不得转载", "转载请注明出处", "使用cookie",
)
# fmt: on


def phrase_share(tokens: Tokens, phrases: tuple[str, ...], also: Mask, at_least: int) -> F64:
    """Share of each document's tokens inside one of `phrases` or marked in `also`.

    0 where no phrase stands in the document, or fewer than `at_least` phrases and marked tokens together.
    """
    start, length = _matches(tokens, phrases)
    width = len(tokens.hashes) + 1
    edges = np.bincount(start, minlength=width) - np.bincount(start + length, minlength=width)
    inside = segment_sums((np.cumsum(edges[:-1]) > 0) | also, tokens.offsets)
    found = _per_document(tokens, start)
    enough = (found > 0) & (found + segment_sums(also, tokens.offsets) >= at_least)
    return np.where(enough, inside / np.maximum(np.diff(tokens.offsets), 1), 0.0)


def phrase_cover(tokens: Tokens, phrases: tuple[str, ...]) -> tuple[F64, I64]:
    """Share of each document's tokens inside one of `phrases`, and how many there are."""
    start, length = _matches(tokens, phrases)
    width = len(tokens.hashes) + 1
    edges = np.bincount(start, minlength=width) - np.bincount(start + length, minlength=width)
    inside = segment_sums(np.cumsum(edges[:-1]) > 0, tokens.offsets)
    return inside / np.maximum(np.diff(tokens.offsets), 1), _per_document(tokens, start)


def phrase_places(tokens: Tokens, phrases: tuple[str, ...]) -> I64:
    """First tokens of all phrases."""
    return _matches(tokens, phrases)[0]


def phrase_count(tokens: Tokens, phrases: tuple[str, ...]) -> I64:
    """How many of `phrases` stand in each document."""
    return _per_document(tokens, _matches(tokens, phrases)[0])


def opens_with(tokens: Tokens, first: I64, count: I64, phrases: tuple[str, ...]) -> Mask:
    """Which spans of `count` tokens from `first` begin with one of `phrases`."""
    opens = np.zeros(len(first), bool)
    if len(tokens.hashes):
        head = tokens.hashes[np.minimum(first, len(tokens.hashes) - 1)]
        spans = np.flatnonzero((count > 0) & member(head, _openings(phrases)))
        place, _ = _check(tokens, first[spans], first[spans] + count[spans], phrases)
        opens[spans[np.isin(first[spans], place)]] = True
    return opens


def _matches(tokens: Tokens, phrases: tuple[str, ...]) -> tuple[I64, I64]:
    """First tokens and lengths of all matches."""
    candidates = np.flatnonzero(member(tokens.hashes, _openings(phrases)))
    last = tokens.offsets[np.searchsorted(tokens.offsets, candidates, side="right")]
    return _check(tokens, candidates, last, phrases)


def _check(tokens: Tokens, start: I64, last: I64, phrases: tuple[str, ...]) -> tuple[I64, I64]:
    """Which phrases of any length begin at `start` and end before `last`."""
    lengths = np.array(_lengths(phrases), np.int64)
    starts, length = np.repeat(start, len(lengths)), np.tile(lengths, len(start))
    fits = starts + length <= np.repeat(last, len(lengths))
    starts, length = starts[fits], length[fits]
    hit = member(tokens.span_hashes(starts, starts + length), phrase_hashes(phrases))
    return starts[hit], length[hit]


def _per_document(tokens: Tokens, places: I64) -> I64:
    documents = len(tokens.offsets) - 1
    return np.bincount(np.searchsorted(tokens.offsets, places, side="right") - 1, minlength=documents)


@cache
def phrase_hashes(phrases: tuple[str, ...]) -> U64:
    """Sorted hashes of the phrases, one each (a phrase of one token has that token's span hash)."""
    tokens = _tokens(phrases)
    return np.unique(tokens.span_hashes(tokens.offsets[:-1], tokens.offsets[1:]))


@cache
def word_hashes(words: tuple[str, ...]) -> U64:
    """Sorted token hashes of single words."""
    return np.unique(_tokens(words).hashes)


@cache
def _openings(phrases: tuple[str, ...]) -> U64:
    tokens = _tokens(phrases)
    return np.unique(tokens.hashes[tokens.offsets[:-1]])


@cache
def _lengths(phrases: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(np.unique(np.diff(_tokens(phrases).offsets)).tolist())


def _tokens(phrases: tuple[str, ...]) -> Tokens:
    return tokenize(flatten(pa.array(list(phrases), pa.string())))
