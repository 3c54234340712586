"""Write docs/recipes/: a page for each recipe, out of the file itself and its header.

python docs/recipe_pages.py
"""

from __future__ import annotations

import re
import textwrap
import tomllib
from pathlib import Path

DOCS = Path(__file__).parent
RECIPES = DOCS.parent / "src" / "isthmus" / "training" / "recipes"
PARTS = r"(?m)^(Source|Deviations|Expected result):"
LIST_BEGINS, LIST_ENDS = r"(?m)^(?![- ])(.+)\n(?=- )", r"(?m)^([- ].+)\n(?=[^- \n])"


def main() -> None:
    (DOCS / "recipes").mkdir(exist_ok=True)
    for recipe in sorted(RECIPES.glob("*.toml")):
        (DOCS / "recipes" / f"{recipe.stem}.md").write_text(page(recipe), encoding="utf-8")


def page(recipe: Path) -> str:
    """A recipe as Markdown: what it is, how to run it, what its header tells, and its values."""
    name, text = recipe.stem, recipe.read_text(encoding="utf-8")
    header, values = text.split("\n\n", 1)
    about = "\n\n".join(map(markdown, re.sub(r"(?m)^# ?", "", header).split("\n\n")))
    return (
        f"# Recipe `{name}`\n\n*{tomllib.loads(text)['description']}.*\n\n{about}\n\n"
        f"## Its values\n\n```toml\n{values.strip()}\n```\n\n"
        f"`--set optim.epochs=10` changes any of them. `isthmus train STORE --recipe {name} --dry-run --out MODEL`\n"
        "prints what would run on your data, with the values that are not named: [training](../guide/training.md).\n\n"
        "This page is written by `docs/recipe_pages.py` from the recipe; do not edit.\n"
    )


def markdown(paragraph: str) -> str:
    """A paragraph of a header: commands fenced, lists apart from what surrounds them, pages linked."""
    if paragraph.startswith("  "):
        return f"```\n{textwrap.dedent(paragraph)}\n```"
    paragraph = re.sub(PARTS, r"\n**\1**:", paragraph).strip()
    apart = re.sub(LIST_ENDS, r"\1\n\n", re.sub(LIST_BEGINS, r"\1\n\n", paragraph))
    return re.sub(r"docs/(\w+)\.md", r"[\1](../\1.md)", apart)


if __name__ == "__main__":
    main()
