"""Pages of help: verbs under headings in the order of the work, each with its whole sentence.

Typer's own panels are switched off (`rich_markup_mode=None`): at 80 columns they cut long option names, and they take
words in brackets for markup.
"""

from typing import Any, ClassVar

from typer.core import TyperGroup

# A verb that is not named here stands under "More".
_ORDER = {
    "A whole run": ("run", "plan", "launch", "report"),
    "Text": ("primer", "curate", "tokenizer", "mixture"),
    "Training": ("pretrain", "tune", "merge", "evaluate"),
    "Models": ("chat", "generate", "serve", "inspect", "convert", "quantize", "template"),
}


class Group(TyperGroup):
    """Verbs with the first paragraph of their help, not cut short."""

    headings: ClassVar[dict[str, tuple[str, ...]]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order of the headings, then as they were declared."""
        named = [name for names in self.headings.values() for name in names if name in self.commands]
        return named + [name for name in self.commands if name not in named]

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """One section for each heading."""
        rest = [name for name in self.commands if all(name not in names for names in self.headings.values())]
        for heading, names in {**self.headings, "More" if self.headings else "Commands": rest}.items():
            rows = [(name, _first_paragraph(self.commands[name])) for name in names if name in self.commands]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)


class Verbs(Group):
    """The verbs of `inkstone` itself."""

    headings = _ORDER


class DefaultVerb(Group):
    """A group of verbs of which `run` is meant where none is named."""

    default = "run"
    argument = "RECIPE"

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """With the default verb put in where the first word is none."""
        verb = next((arg for arg in args if not arg.startswith("-")), None)
        if verb is not None and verb not in self.commands:
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """`inkstone curate RECIPE [OPTIONS]`, and the other verbs."""
        others = [name for name in self.commands if name != self.default]
        return [f"{self.argument} [OPTIONS]", f"| {{{'|'.join(others)}}} ..."]


def _first_paragraph(command: Any) -> str:
    return " ".join((command.help or "").partition("\n\n")[0].split())
