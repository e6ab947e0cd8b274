"""Put a language together: its fact tables (facts/*.csv), its wording (words/*.toml) and its additions."""

import csv
import tomllib
from importlib.resources import files
from typing import Any

from pydantic import TypeAdapter

from inkstone.primer.arithmetic import addition_facts
from inkstone.primer.language import Fact, Lang, Language, Relation, Voice

LANGS: tuple[Lang, ...] = ("zh", "en")


def load_language(code: Lang) -> Language:
    """Read every table that the language's relations name; `addition` has no table, its facts are computed."""
    relations = TypeAdapter(tuple[Relation, ...]).validate_python(_words(f"{code}_facts")["relations"])
    voice = TypeAdapter(Voice).validate_python(_words(f"{code}_voice"))
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


def _words(name: str) -> dict[str, Any]:
    return tomllib.loads((files("inkstone.primer") / "words" / f"{name}.toml").read_text(encoding="utf-8"))
