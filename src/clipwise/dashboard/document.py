"""A page as one file without external resources."""

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape


def document(
    title: str, body: str, *, styles: Sequence[str], scripts: Sequence[str] = (), icon: str = ""
) -> str:
    """HTML text. A content security policy with the hash of each part makes the browser refuse anything else.

    Args:
        title: as text.
        body: as HTML.
        styles: style sheets.
        scripts: run in this order after the body.
        icon: as SVG; by default none.
    """
    policy = [
        "default-src 'none'",
        "img-src data:",
        *([f"script-src {_hashes(scripts)}"] if scripts else []),
        f"style-src {_hashes(styles)}",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    link = base64.b64encode(icon.encode()).decode("ascii")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{"; ".join(policy)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="clipwise">
<title>{escape(title)}</title>
{f'<link rel="icon" href="data:image/svg+xml;base64,{link}">' if icon else ""}
{"".join(f"<style>{text}</style>" for text in styles)}
</head>
<body>
{body}
{"".join(f"<script>{text}</script>" for text in scripts)}
</body>
</html>
"""


def _hashes(texts: Iterable[str]) -> str:
    digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii") for text in texts)
    return " ".join(f"'sha256-{digest}'" for digest in digests)
