"""The report as Markdown, for pull requests and notebooks: the same sentences and tables, without figures."""

from __future__ import annotations

import re

from core.study.report.blocks import Block, Boxes, Document, Folded, Items, Say, Table
from core.study.report.words import SIGNS

_SPECIAL = re.compile(r"([\\`*{}\[\]#|~$!])|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])")


def render(document: Document) -> str:
    """GitHub's Markdown."""
    parts = [f"# {say(document.title)}", say(document.subtitle)]
    if document.missing:
        told = " ".join(say(text[:1].upper() + text[1:]) + "." for text in document.missing)
        parts.append(f"**INCOMPLETE.** {told} All below is preliminary.")
    parts += [f"> {say(text)}" for text in document.answer]
    for section in document.sections:
        blocks = [text for block in section.blocks if (text := _block(block))]
        if blocks:
            parts += [f"## {say(section.title)}", *blocks]
    return "\n\n".join(parts) + "\n"


def say(text: str) -> str:
    """`text` so that nothing in it is markup."""
    text = _SPECIAL.sub(lambda hit: "\\" + hit[0], text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _block(block: Block) -> str:
    if isinstance(block, Table):
        return _table(block)
    if isinstance(block, Boxes):
        lines = [
            f"- {SIGNS[b.word]} **{say(b.name)}: {say(b.word)}**{' ' + say(b.size) if b.size else ''}. "
            f"{say('; '.join(filter(None, [b.why, b.facts])))}."
            for b in block.boxes
        ]
        return "\n".join([f"### {say(block.title)}", "", *lines])
    if isinstance(block, Say):
        return say(block.text)
    if isinstance(block, Items):
        return "\n".join([f"### {say(block.title)}", "", *(f"- {say(item)}" for item in block.items)])
    if isinstance(block, Folded):
        lines = [line for name, text in block.entries for line in ([f"# {name}", text] if name else [text])]
        fence = "`" * (2 + max((len(run) for run in re.findall(r"`+", "\n".join(lines))), default=1))
        body = "\n".join([fence, *lines, fence])
        return f"<details><summary>{say(block.title)}</summary>\n\n{body}\n\n</details>"
    return ""


def _table(table: Table) -> str:
    marks = ["---:" if table.numeric(j) else "---" for j in range(len(table.header))]
    rows = [" | ".join(f"**{say(c.text)}**" if c.strong else say(c.text) for c in row) for row in table.rows]
    lines = [" | ".join(map(say, table.header)), " | ".join(marks), *rows]
    out = [f"### {say(table.title)}", "", *(f"| {line} |" for line in lines)]
    return "\n".join(out + (["", say(table.note)] if table.note else []))
