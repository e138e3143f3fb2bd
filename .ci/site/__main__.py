"""Builds the site: README and manual, and the docstrings of the public modules, by pdoc. Usage: .ci/site FOLDER."""

import re
import sys
from importlib import import_module
from inspect import signature
from pathlib import Path
from shutil import copy
from types import FunctionType, ModuleType
from typing import get_type_hints
from urllib.parse import unquote

from pdoc import doc, docstrings, render
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).parents[2]
MANUAL = ROOT / "rxcompact/manual"
API = """operators events signals errors contracts observers testing frames notebook enrichers.http sinks.stores
brokers brokers.jetstream brokers.redis brokers.kafka cluster.ray"""
LINK = re.compile(r"\[([^]]+)\]\(((?!https?:)[^)#]+)([^)]*)\)")


def link(found: re.Match[str]) -> str:
    text, target, fragment = found.groups()
    is_page = (MANUAL / target).exists() or target.startswith("rxcompact/manual/")
    return f"[{text}]({target.removesuffix('.md') + '.html' * target.endswith('.md')}{fragment})" if is_page else text


def page(name: str, file: Path) -> ModuleType:
    module = ModuleType(name, LINK.sub(link, file.read_text()))
    module.__docformat__ = "markdown"
    return module


def function(name: str, operator: type) -> FunctionType:
    """Return what an operator looks like to its caller, who writes `enrich` where the class is `Enrich`."""
    made = FunctionType((lambda: None).__code__, {"__name__": operator.__module__}, name)
    made.__doc__, made.__signature__ = operator.__doc__, signature(operator)
    return made


def api(name: str) -> ModuleType:
    module = import_module(name)
    for each in getattr(module, "__all__", tuple(vars(module))):
        thing = getattr(module, each)
        if isinstance(thing, type) and thing.__module__.startswith(name):
            hints = get_type_hints(thing)
            for made in (thing.__init__, thing.__new__):  # their annotations are texts, of the modules of its bases
                annotations = getattr(made, "__annotations__", {})
                annotations.update({name: hints[name] for name in annotations if name in hints})
            if thing.__name__.lower() == each:
                setattr(module, each, function(each, thing))
    return module


def main(folder: Path) -> None:
    home = api("rxcompact")
    home.__doc__, home.__docformat__ = page("", ROOT / "README.md").__doc__, "markdown"
    modules = [home, *(page(f"rxcompact.manual.{file.stem}", file) for file in sorted(MANUAL.glob("*.md")))]
    modules += [api(f"rxcompact.{name}") for name in API.split()]
    google = docstrings.google
    docstrings.google = lambda text: google(re.sub(r"(?m)(?<=\w):(?=:$)|^ *::$", "", text))  # of reStructuredText
    render.env.globals["dark_code"] = HtmlFormatter(style="github-dark").get_style_defs(".pdoc-code")
    pages = {module.__name__: doc.Module(module) for module in modules}
    render.configure(docformat="google", include_undocumented=False, template_directory=Path(__file__).parent)
    for name, each in pages.items():
        file = folder / f"{name.replace('.', '/')}.html"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(render.html_module(each, pages))
    (folder / "index.html").write_text(render.html_index(pages))
    (folder / "search.js").write_text(render.search_index(pages))
    for image in [*MANUAL.glob("*.svg"), *MANUAL.glob("*.png")]:
        copy(image, folder / "rxcompact/manual")
    for file in folder.rglob("*.html"):
        text = file.read_text()
        for target in re.findall(r'(?:href|src|srcset)="([^"#:?$]*)["#]', text):
            assert (file.parent / unquote(target)).exists(), f"{file}: {target}"
        for place in re.findall(r'href="#([^"]+)"', text):
            assert f'id="{place}"' in text, f"{file}: #{place}"
    print(f"{len(pages)} pages in {folder}")


main(Path(sys.argv[1]))
