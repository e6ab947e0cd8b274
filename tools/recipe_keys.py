"""Write the key tables of docs/recipe.md from the settings models, so that page and program cannot disagree.

    .venv/bin/python tools/recipe_keys.py

A table stands between `<!-- keys: PATH -->` and `<!-- end of keys -->`. PATH is a table of the recipe, e.g. pretrain
or corpus.dedup; several tables of one shape (`corpus.rules.zh, corpus.rules.en`) share one table with a column of
defaults each; `sft beyond pretrain` leaves out what both have in common. tests/recipe checks that nothing is stale.
"""

import json
import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from inkstone.recipe import Recipe

PAGE = Path(__file__).parent.parent / "docs" / "recipe.md"
MARKED = re.compile(r"(<!-- keys: (.*?) -->\n).*?(<!-- end of keys -->)", re.DOTALL)
_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
_NAMES = {str: "string", int: "integer", float: "number", bool: "true, false"}


def render(page: str) -> str:
    """The page with every table written anew."""
    return MARKED.sub(lambda found: found[1] + _table(found[2]) + found[3], page)


def tables(page: str) -> list[str]:
    """The recipe tables that the page documents, as dotted paths; the top level is "recipe"."""
    marked = [found[1].split(" beyond ")[0] for found in MARKED.findall(page)]
    return [path.strip() for paths in marked for path in paths.split(",")]


def nested(annotation: object) -> type[BaseModel] | None:
    """The settings model of a field that is a table of its own."""
    found = [one for one in (annotation, *get_args(annotation)) if isinstance(one, type) and issubclass(one, BaseModel)]
    return found[0] if found else None


def _table(marker: str) -> str:
    named, _, common = marker.partition(" beyond ")
    paths = [path.strip() for path in named.split(",")]
    models = [_model(path) for path in paths]
    left_out = _rows(_model(common.strip())[0]) if common else {}
    rows = _rows(models[0][0])
    heads = ["default"] if len(paths) == 1 else [f"default, {path.rpartition('.')[2]}" for path in paths]
    lines = [["key", "value", *heads, "meaning"], ["---"] * (len(heads) + 3)]
    for key, field in rows.items():
        if key in left_out and _meaning(left_out[key]) == _meaning(field) and left_out[key].default == field.default:
            continue
        defaults = [_default(key, model.model_fields[key], values) for model, values in models]
        lines.append([f"`{key}`", _kind(field), *defaults, _meaning(field)])
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def _model(path: str) -> tuple[type[BaseModel], BaseModel | None]:
    """The settings model at a dotted path, and the values it has by default where its parent sets some."""
    model: type[BaseModel] = Recipe
    values: BaseModel | None = None
    for part in path.split(".") if path != "recipe" else []:
        field = model.model_fields[part]
        inner = nested(field.annotation)
        assert inner, f"{path}: {part} is no table"
        model, values = inner, field.default if isinstance(field.default, BaseModel) else None
    return model, values


def _rows(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys of a table, without those that are tables themselves."""
    return {name: field for name, field in model.model_fields.items() if not nested(field.annotation)}


def _default(key: str, field: FieldInfo, values: BaseModel | None) -> str:
    if field.is_required():
        return "required"
    value = getattr(values, key) if values else field.default
    return "–" if value is None else f"`{json.dumps(value, ensure_ascii=False)}`"


def _kind(field: FieldInfo) -> str:
    limits = [
        f"{sign} {getattr(one, name):g}"
        for one in field.metadata
        for name, sign in _SIGNS.items()
        if getattr(one, name, None) is not None
    ]
    return " ".join([_named(field.annotation), ", ".join(limits)]).strip()


def _named(annotation: object) -> str:
    inner = [one for one in get_args(annotation) if one not in (NoneType, ...)]
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{json.dumps(one)}`" for one in inner)
    if get_origin(annotation) in (list, tuple):
        return f"list of {_named(inner[0])}{'s' if inner[0] in _NAMES else ''}"
    if get_origin(annotation) is dict:
        return f"table: name = {_named(inner[-1])}"
    if get_origin(annotation) in (Union, UnionType):
        return _named(inner[0])
    assert isinstance(annotation, type)
    return _NAMES[annotation]


def _meaning(field: FieldInfo) -> str:
    """The description in the page's style: no capital at the start, no full stop at the end."""
    text = (field.description or "").removesuffix(".")
    rest = text.partition(" ")[0][1:]
    return text[:1].lower() + text[1:] if not rest or rest.islower() else text


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
