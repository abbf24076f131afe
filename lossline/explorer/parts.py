"""Parts of a page: controls of the explorer, scripts, and the policy that admits only them."""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import ClassVar

import jinja2
from markupsafe import Markup

from lossline.explorer.study import Study


@dataclass(frozen=True, kw_only=True)
class Explorer:
    """A study one explores, as a block of a page."""

    kind: ClassVar[str] = "explorer"
    study: Study

    @property
    def html(self) -> Markup:
        """Controls, an empty place for the chart, and the packed study."""
        environment = jinja2.Environment(
            autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        template = environment.from_string(asset("explorer.html.j2"))
        return Markup(template.render(study=self.study))


@functools.cache
def asset(name: str) -> str:
    """Return the text of a file of this room."""
    return (resources.files("lossline.explorer") / "assets" / name).read_text("utf-8")


def scripts(*, explorer: bool) -> list[str]:
    """Return the scripts of a page: tools of tables and figures, and those of the explorer."""
    names = ["tools.js", *(["vega.min.js", "explorer.js"] if explorer else [])]
    # Line feeds at both ends belong to what a browser hashes.
    return [f"\n{asset(name)}" for name in names]


def policy(scripts: Sequence[str]) -> str:
    """Return a content security policy: these scripts run, and nothing is ever fetched.

    Vega compiles the expressions of its charts, which hold no text of the study.
    """
    hashes = [
        "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
        for text in scripts
    ]
    allowed = " ".join([*hashes, *(["'unsafe-eval'"] if len(scripts) > 1 else [])])
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"
