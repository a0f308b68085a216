"""The style of the page: light and dark after the reader's own setting, one column on a telephone."""

__all__ = ["STYLE"]

STYLE = """\
:root {
  color-scheme: light dark;
  --paper: #f6f8fa; --card: #ffffff; --ink: #1f2328; --quiet: #59636e; --line: #d8dee4;
  --good: #1a7f37; --bad: #c4320a; --accent: #0072b2; --code: #f0f2f5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #0d1117; --card: #161b22; --ink: #e6edf3; --quiet: #8d96a0; --line: #2b323b;
    --good: #3fb950; --bad: #ff8a5c; --accent: #4ba3dd; --code: #21262d;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1120px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
header p { margin: 0; color: var(--quiet); }
h1 {
  font-size: clamp(1.4rem, 3.4vw, 2.1rem); line-height: 1.2; margin: .2rem 0 1.4rem; overflow-wrap: anywhere;
}
h2 { font-size: 1.15rem; margin: 0 0 .8rem; }
section {
  background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 1.1rem 1.25rem; margin: 0 0 1.1rem;
}
ul { margin: 0; padding-left: 1.2rem; }
li + li { margin-top: .35rem; }
img { display: block; width: 100%; min-width: 640px; height: auto; border-radius: 6px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .94rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: .9rem 0 .35rem; }
table:first-of-type caption { padding-top: 0; }
th, td {
  text-align: right; padding: .42rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap;
}
th:first-child, td:first-child { text-align: left; padding-left: 0; }
thead th { color: var(--quiet); font-weight: 500; }
tbody th { font: 500 .88rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
tbody tr:last-child th, tbody tr:last-child td { border-bottom: 0; }
.best { color: var(--good); font-weight: 700; }
.bad { color: var(--bad); font-weight: 600; }
.quiet, small { color: var(--quiet); }
td small { display: block; font-size: .8rem; }
pre {
  background: var(--code); border-radius: 8px; padding: .8rem 1rem; margin: 0;
  white-space: pre; overflow-x: auto;
  font: .88rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
}
pre + p { margin-top: 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem; margin: 0; font-size: .94rem; }
dt { font-weight: 500; color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
summary { cursor: pointer; font-weight: 600; font-size: 1.15rem; }
details > :not(summary) { margin-top: .9rem; }
.columns {
  display: grid; gap: 1.1rem; margin-bottom: 1.1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
}
.columns section { margin: 0; min-width: 0; }
@media (max-width: 560px) { dl { grid-template-columns: 1fr; gap: .1rem; } dd { margin-bottom: .5rem; } }
@media print { body { background: none; } section { break-inside: avoid; } }
"""
