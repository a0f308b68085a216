"""The style of the page, beyond what it shares with the live page; one column on a telephone."""

__all__ = ["STYLE"]

STYLE = """\
body { font-size: 16px; line-height: 1.55; }
main { max-width: 1120px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
section p { margin: 1em 0; }
header p { color: var(--quiet); }
h1 {
  font-size: clamp(1.4rem, 3.4vw, 2.1rem); line-height: 1.2; margin: .2rem 0 1.4rem; overflow-wrap: anywhere;
}
h2 { font-size: 1.15rem; margin: 0 0 .8rem; white-space: normal; }
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
tbody th { font: 500 .88rem/1.5 var(--mono); }
tbody tr:last-child th, tbody tr:last-child td { border-bottom: 0; }
.best { color: var(--good); font-weight: 700; }
.bad { font-weight: 600; }
td small { display: block; font-size: .8rem; }
pre { margin: 0; padding: .8rem 1rem; font-size: .88rem; white-space: pre; overflow-x: auto; }
pre + p { margin-top: 1rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.2rem; margin: 0; font-size: .94rem; }
dt { font-weight: 500; color: var(--quiet); }
dd { margin: 0; overflow-wrap: anywhere; }
summary { font-weight: 600; font-size: 1.15rem; }
details > :not(summary) { margin-top: .9rem; }
.columns {
  display: grid; gap: 1.1rem; margin-bottom: 1.1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr));
}
.columns section { margin: 0; min-width: 0; }
@media (max-width: 560px) {
  main { padding: 1rem .6rem 3rem; }
  section { padding: .9rem .8rem; }
  dl { grid-template-columns: 1fr; gap: .1rem; }
  dd { margin-bottom: .5rem; }
  /* The picture keeps a size that can be read, and is moved sideways. */
  img { min-width: 980px; }
  /* Each row is a block, with one line a figure. */
  table, tbody, tr, caption { display: block; }
  thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  tbody tr { border-top: 1px solid var(--line); padding: .5rem 0; }
  tbody th { display: block; padding: 0; border: 0; white-space: normal; overflow-wrap: anywhere; }
  td { display: flex; justify-content: space-between; gap: 1rem; padding: .15rem 0; border: 0; }
  td span { white-space: normal; }
  td:first-child { padding-left: 0; }
  td::before { content: attr(data-column); color: var(--quiet); font-weight: 400; text-align: left; }
}
@media print { body { background: none; } section { break-inside: avoid; } }
"""
