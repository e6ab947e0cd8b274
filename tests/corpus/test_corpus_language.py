"""Language by script and function words: French, German and others do not pass as English, short or odd text does."""

import pyarrow as pa
import pytest

from inkstone.corpus.judge.kernel import flatten, tokenize
from inkstone.corpus.judge.language import languages
from inkstone.corpus.judge.measures import measure

FOREIGN = {
    "fr": "Longtemps, je me suis couché de bonne heure. Parfois, à peine ma bougie éteinte, mes yeux se fermaient si "
    "vite que je n'avais pas le temps de me dire : je m'endors.",
    "de": "Als Gregor Samsa eines Morgens aus unruhigen Träumen erwachte, fand er sich in seinem Bett zu einem "
    "ungeheueren Ungeziefer verwandelt. Er lag auf seinem panzerartig harten Rücken.",
    "es": "En un lugar de la Mancha, de cuyo nombre no quiero acordarme, no ha mucho tiempo que vivía un hidalgo de "
    "los de lanza en astillero, adarga antigua, rocín flaco y galgo corredor.",
    "it": "Nel mezzo del cammin di nostra vita mi ritrovai per una selva oscura, che la diritta via era smarrita. Ahi "
    "quanto a dir qual era è cosa dura esta selva selvaggia e aspra e forte.",
    "pt": "Algum tempo hesitei se devia abrir estas memórias pelo princípio ou pelo fim, isto é, se poria em primeiro "
    "lugar o meu nascimento ou a minha morte.",
    "nl": "Ik ben makelaar in koffi, en woon op de Lauriergracht. Het is mijn gewoonte niet, romans te schrijven, of "
    "zulke dingen, en het heeft dan ook lang geduurd, voor ik er toe overging.",
    "pl": "Litwo! Ojczyzno moja! ty jesteś jak zdrowie. Ile cię trzeba cenić, ten tylko się dowie, kto cię stracił. "
    "Dziś piękność twą w całej ozdobie widzę i opisuję, bo tęsknię po tobie.",
    "vi": "Trăm năm trong cõi người ta, chữ tài chữ mệnh khéo là ghét nhau. Trải qua một cuộc bể dâu, những điều trông "
    "thấy mà đau đớn lòng.",
    "id": "Semua orang dilahirkan merdeka dan mempunyai martabat dan hak yang sama. Mereka dikaruniai akal dan hati "
    "nurani dan hendaknya bergaul satu sama lain dalam persaudaraan.",
}
ENGLISH = [
    "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse, I thought "
    "I would sail about a little and see the watery part of the world.",
    "carbon->C\nLes Demoiselles d'Avignon->Picasso\nKazakhstan->tenge\nPoland->Warsaw\nsilicon->Si\nsodium->Na",
    "def main(argv):\n    for value in argv:\n        print(value)\n    return len(argv)\n\nmain(sys.argv)\nexit(0)",
    "The café's résumé named Zoë and José, who came from São Paulo to work with the naïve Brontë scholars of the city.",
    "Where is the river?",
    "Kabaneri of the Iron Fortress (甲鉄城のカバネリ, Kōtetsujō no Kabaneri) is an anime series by Wit Studio, "
    "which was directed by Tetsurō Araki and written by Ichirō Ōkouchi, with music by Hiroyuki Sawano.",
    "def median(l: list):\n    l = sorted(l)\n    if len(l) % 2 == 1:\n        return l[len(l) // 2]\n    return l[0]",
    "Edit this sentence: no pain, no danced. Come on, do say: no pain, no gain.",
]


def lang(text: str) -> str:
    flat = flatten(pa.array([text]))
    return str(languages(measure(flat, tokenize(flat)))[0])


@pytest.mark.parametrize("text", FOREIGN.values(), ids=FOREIGN)
def test_other_languages_in_latin_script_are_not_english(text: str) -> None:
    assert lang(text) == "other"


@pytest.mark.parametrize("text", ["彼女は優秀な教師です。She is an excellent teacher.", "東京の天気は晴れ"])
def test_japanese_is_not_chinese_nor_english(text: str) -> None:
    assert lang(text) == "other"


@pytest.mark.parametrize("text", ENGLISH)
def test_english_names_lists_and_code_are_english(text: str) -> None:
    assert lang(text) == "en"


@pytest.mark.parametrize("text", [
    "他在信里写了「ありがとう」和「さようなら」两句话，我到现在也没有忘记。",
    "日语里的「いただきます」是吃饭之前说的，「ごちそうさま」是吃完以后说的，这两句话孩子们都会。",
    "店门上写着いらっしゃいませ，他们说这是欢迎的意思。",
])  # fmt: skip
def test_chinese_that_quotes_japanese_is_chinese(text: str) -> None:
    assert lang(text) in ("zh", "mixed")


@pytest.mark.parametrize("text", [
    "国境の長いトンネルを抜けると雪国であった。夜の底が白くなった。信号所に汽車が止まった。",
    "メロスは激怒した。必ず、かの邪智暴虐の王を除かなければならぬと決意した。",
    "東京都知事選挙の投票が行われ、現職の候補が当選した。投票率は前回を上回った。",
    "人間の一生は、重い荷物を背負って遠い道を行くようなものだ。急いではいけない。不自由を常と思えば不足はない。",
])  # fmt: skip
def test_japanese_full_of_chinese_characters_is_not_chinese(text: str) -> None:
    assert lang(text) == "other"
