"""Put a language together: its fact tables (CSV files in the package), its templates and its additions."""

import csv
from importlib.resources import files

from inkstone.primer.arithmetic import addition_facts
from inkstone.primer.language import Fact, Lang, Language
from inkstone.primer.templates_en import RELATIONS_EN
from inkstone.primer.templates_zh import RELATIONS_ZH
from inkstone.primer.voice_en import VOICE_EN
from inkstone.primer.voice_zh import VOICE_ZH

LANGS: tuple[Lang, ...] = ("zh", "en")


def load_language(code: Lang) -> Language:
    """Read every table that the language's relations name; `addition` has no table, its facts are computed."""
    relations, voice = (RELATIONS_ZH, VOICE_ZH) if code == "zh" else (RELATIONS_EN, VOICE_EN)
    tables = [relation.name for relation in relations if relation.name != "addition"]
    return Language(
        code=code,
        voice=voice,
        relations={relation.name: relation for relation in relations},
        facts=tuple(fact for name in tables for fact in _table(code, name)),
        sums=addition_facts(),
    )


def _table(code: Lang, name: str) -> list[Fact]:
    text = (files("inkstone.primer") / "facts" / f"{code}_{name}.csv").read_text(encoding="utf-8")
    return [Fact(relation=name, **row) for row in csv.DictReader(text.splitlines())]
