"""The live page: what the server lets through and counts, and what the browser draws."""

from tests.mutations.breaks import Break

ADDRESSES = "tests/dashboard/test_addresses.py"
JS = "src/clipwise/dashboard/static/js"

BREAKS = [
    Break(
        "any name of a host is answered",
        "src/clipwise/dashboard/guard.py",
        '_name(request.headers.get("host", "")) not in self._names',
        "not self._names",
        ADDRESSES,
    ),
    Break(
        "any token opens the page",
        "src/clipwise/dashboard/guard.py",
        'return hmac.compare_digest(given.encode(), (self._token or "").encode())',
        "return bool(given)",
        ADDRESSES,
    ),
    Break(
        "what follows an address in brackets is not looked at",
        "src/clipwise/dashboard/guard.py",
        "HOST.fullmatch(",
        "HOST.match(",
        ADDRESSES,
    ),
    Break(
        "answers of the guard do not say what a browser is to refuse",
        "src/clipwise/dashboard/guard.py",
        "(scope, receive, guarded)",
        "(scope, receive, send)",
        ADDRESSES,
    ),
    Break(
        "another address needs no token",
        "src/clipwise/dashboard/access.py",
        "return None if is_loopback(host) else any_token()",
        "return None",
        ADDRESSES,
    ),
    Break(
        "a spike is thinned away",
        "src/clipwise/dashboard/thinning.py",
        "for extreme in (np.minimum, np.maximum):",
        "for extreme in (np.minimum,):",
        "tests/dashboard/test_thinning.py",
    ),
    Break(
        "a norm at the threshold is clipped",
        "src/clipwise/dashboard/distribution.py",
        'np.searchsorted(self.norms, thresholds, side="right")',
        'np.searchsorted(self.norms, thresholds, side="left")',
        "tests/dashboard/test_numbers.py",
    ),
    Break(
        "JavaScript: a name is read as HTML",
        f"{JS}/dom.js",
        "  node.append(...children.flat().filter((child) => child !== null && child !== undefined"
        ' && child !== ""));',
        "  for (const child of children.flat()) {\n"
        '    if (typeof child === "string") node.insertAdjacentHTML("beforeend", child);\n'
        "    else if (child !== null && child !== undefined) node.append(child);\n  }",
        "tests/dashboard/test_page.py -k lie",
    ),
    Break(
        "JavaScript: cells from the wrong end of their bytes",
        f"{JS}/heat.js",
        "view.getUint16(2 * i, true)",
        "view.getUint16(2 * i, false)",
        "tests/dashboard/test_page.py -k 'draws or keyboard'",
    ),
    Break(
        "JavaScript: NaN and Inf have no mark",
        f"{JS}/chart.js",
        "    this._marks = marks;\n",
        "    this._marks = [];\n",
        "tests/dashboard/test_page.py -k 'draws or million'",
    ),
    Break(
        "a report whose data end its script",
        "src/clipwise/dashboard/report.py",
        '.replace("<", "\\\\u003c")',
        "",
        "tests/dashboard/test_report.py",
    ),
]
