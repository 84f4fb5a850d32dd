"""Pages of the site that do not lie in docs/: the API, a page for each subpackage, and documents in other folders.

Documents link to each other as files of the repository, so that links work wherever the files are read. A document
outside docs/ keeps its path in the site, and links are turned into those of the site here.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
ELSEWHERE = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "benchmarks/results/cpu-*.md",
    "benchmarks/results/cpu-*.png",
    "bundles/*/docs/README.md",
    "bundles/common/README.md",
    "models/*/docs/README.md",
    "results/**/leaderboard.md",
    "results/*/*.png",
    "studies/README.md",
)
# in the order of the flow; those that are not named follow
FLOW = ("data", "preprocessing", "patches", "networks", "detectors", "generators", "training", "evaluation", "report")
LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)\s#]+)(?=[)#])")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the bundles and the API to the navigation."""
    for section in config.nav or []:
        if "Detectors" in section:
            section["Detectors"][:0] = [path for path in _elsewhere() if re.match("bundles/.+/docs/", path)]
        if "API" in section:
            section["API"] = [{f"medanomaly.{name}": f"api/{name}.md"} for name in _api()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the documents elsewhere and the pages of the API."""
    for path in _elsewhere():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    for name, modules in _api().items():
        parts = [f"# medanomaly.{name}", *(f"::: {module}" for module in modules)]
        if len(modules) > 1:  # of the package itself its words alone: what it exports follows, module by module
            parts[1] += "\n    options: {members: false, show_root_heading: false}"
        files.append(File.generated(config, f"api/{name}.md", content="\n\n".join(parts)))
    return files


def on_page_markdown(markdown: str, page: Page, files: Files, **_: Any) -> str:
    """Links between files of the repository become links between pages."""
    place = page.file.src_uri if page.file.src_uri in _elsewhere() else f"docs/{page.file.src_uri}"

    def site_link(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(place), match[1])).removeprefix("docs/")
        if files.get_file_from_path(target) is None:
            return match[1]  # which MkDocs then warns of
        return posixpath.relpath(target, posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(site_link, markdown)


def _elsewhere() -> list[str]:
    return sorted(path.relative_to(ROOT).as_posix() for pattern in ELSEWHERE for path in ROOT.glob(pattern))


def _api() -> dict[str, list[str]]:
    """Each page's modules: those of a subpackage, or a module that stands alone."""
    package = ROOT / "medanomaly"
    pages: dict[str, list[str]] = {}
    for path in sorted(package.iterdir(), key=lambda path: (*FLOW, path.stem).index(path.stem)):
        is_code = path.suffix == ".py" or (path / "__init__.py").exists()
        if not is_code or path.stem.startswith("_") or path.stem == "cli":
            continue
        modules = sorted(path.glob("[!_]*.py")) if path.is_dir() else []
        pages[path.stem] = [f"medanomaly.{path.stem}", *(f"medanomaly.{path.stem}.{module.stem}" for module in modules)]
    return pages
