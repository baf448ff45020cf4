"""An HTML file to send to somebody: nothing in it is loaded from anywhere, nothing in it runs. Pure."""

import base64
from collections.abc import Iterable
from html import escape
from typing import Any

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; } body { font: 15px/1.5 system-ui, sans-serif; max-width: 900px; margin: 2rem auto;
padding: 0 1rem; } img { max-width: 100%; background: #fff; } table { border-collapse: collapse; } td, th { padding: 4px
14px 4px 0; text-align: left; border-bottom: 1px solid #8884; } td.n { text-align: right; font-variant-numeric:
tabular-nums; } pre { white-space: pre-wrap; overflow-wrap: anywhere; border: 1px solid #8884; padding: 10px;
border-radius: 6px; unicode-bidi: plaintext; } .quiet { opacity: .7; } .wide { overflow-x: auto; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document of parts that are HTML; the title is text."""
    head = f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    head += f"<title>{escape(title)}</title><style>{STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>'


def table(head: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """Cells are text or numbers; a missing one is a dash."""
    lines = ["".join(f"<th>{escape(name)}</th>" for name in head)]
    for row in rows:
        cells = [f"{value:.4g}" if isinstance(value, float) else "-" if value is None else str(value) for value in row]
        lines.append("".join(f'<td class="n">{escape(cell)}</td>' for cell in cells))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table>{body}</table></div>' if len(lines) > 1 else '<p class="quiet">None.</p>'


def bullets(items: Iterable[str]) -> str:
    """A list of texts."""
    lines = [f"<li>{escape(item)}</li>" for item in items]
    return f"<ul>{''.join(lines)}</ul>" if lines else '<p class="quiet">None.</p>'


def picture(png: bytes, alt: str) -> str:
    """Within the page."""
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
