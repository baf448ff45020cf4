"""Texts that a page must show and never run: markup, handlers, URLs, ends of attributes, bidi and control signs."""

CALL = "window.__hit('{}')"
VECTORS = (
    "<script>{call}</script>",
    "<img src=x onerror={call}>",
    "<svg onload={call}>",
    "<svg><script>{call}</script></svg>",
    '<iframe srcdoc="<script>parent.{call}</script>"></iframe>',
    "<body onload={call}>",
    "<details open ontoggle={call}>",
    "<input autofocus onfocus={call}>",
    '<a href="javascript:{call}">x</a>',
    '<form action="javascript:{call}"><button>x</button></form>',
    '<object data="javascript:{call}"></object>',
    '<embed src="javascript:{call}">',
    "<math><mtext></form><form><mglyph><style></math><img src onerror={call}>",
    "<style>@import 'http://evil.example/x';</style>",
    "<link rel=stylesheet href=http://evil.example/x>",
    '<meta http-equiv=refresh content="0;url=javascript:{call}">',
    "<base href=http://evil.example/>",
    "<video><source onerror={call}></video>",
    "<marquee onstart={call}>",
    "<template><img src=x onerror={call}></template>",
    '<noscript><p title="</noscript><img src=x onerror={call}>">',
    "${{{call}}}",
    "{{{{constructor.constructor('{call}')()}}}}",
    "![x](javascript:{call})",
    "data:text/html,<script>{call}</script>",
)
WRAPPINGS = (
    "{}",
    "\"'>{}",
    "</textarea></title>{}",
    "--><!--{}-->",
    "]]>{}",
    "\u202e{}\u202c",
    "\u2066{}\u2069",
    "\u0000{}\u001b[31m",
    "</pre></p></article>{}",
    '\\"{}//',
    "%3Cimg%20src=x%3E{}",
    "\ufeff{}\u200b",
)


def payloads() -> list[str]:
    """Every vector in every wrapping: 300."""
    return [
        wrapping.format(vector.format(call=CALL.format(f"{row}-{column}")))
        for row, vector in enumerate(VECTORS)
        for column, wrapping in enumerate(WRAPPINGS)
    ]
