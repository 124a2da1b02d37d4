"""The page at the server's address: one HTML file, which asks the same paths as any other caller.

It loads nothing, and its policy lets it run its own script and ask this server alone. It holds no secret: a token is
typed into it. A page of another site can neither read nor frame it.
"""

import base64
import hashlib
import pathlib
import re

PAGE = pathlib.Path(__file__).with_name("page.html").read_text(encoding="utf-8")
"""The HTML."""


def _sources(tag: str) -> str:
    """Return the hashes of the page's inline elements, as a policy names them."""
    texts = re.findall(f"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)
    digests = (hashlib.sha256(text.encode()).digest() for text in texts)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


HEADERS = {
    "content-security-policy": "; ".join(
        (
            "default-src 'none'",
            f"script-src {_sources('script')}",
            f"style-src {_sources('style')}",
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "cache-control": "no-cache",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
"""Its headers; x-frame-options for browsers that do not know frame-ancestors."""
