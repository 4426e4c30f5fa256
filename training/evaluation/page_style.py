"""The style sheet of the evaluation's page, for light and dark screens."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1d20; --soft: #5d646d; --paper: #fff;
        --line: #dde1e6; --tint: #f3f5f7; --right: #12713a; --wrong: #b3261e; --mark: #fff0c2 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e7e9ec; --soft: #9aa3ad; --paper: #15181b; --line: #343a41; --tint: #1e2226;
          --right: #6fd08c; --wrong: #ff8a80; --mark: #5a4710 } }
body { font: 15px/1.45 system-ui, sans-serif; color: var(--ink); background: var(--paper);
       margin: 2rem auto; max-width: 1400px; padding: 0 1.2rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem }
small, .title small, p, li { color: var(--soft) } small { font-size: 12px; white-space: nowrap }
.scroll { overflow-x: auto } table { border-collapse: collapse }
th, td { padding: .35rem .8rem; text-align: right; vertical-align: top; font-weight: normal;
         white-space: nowrap; font-variant-numeric: tabular-nums }
tr > :first-child, table.text td, table.text th { text-align: left }
tr > :first-child, tr:first-child th { font-weight: 600 }
table.text td:last-child { white-space: normal; min-width: 18rem }
tr { border-bottom: 1px solid var(--line) } tr:hover { background: var(--tint) }
mark { background: var(--mark); color: inherit; padding: 0 .3em; border-radius: 3px }
pre { background: var(--tint); padding: 1rem; overflow-x: auto; font-size: 12px }
summary { cursor: pointer; margin-top: 2rem }
input[type=radio] { position: absolute; opacity: 0 }
label { display: inline-block; padding: .25rem .8rem; margin: 0 .4rem .6rem 0; cursor: pointer;
        border: 1px solid var(--line); border-radius: 99px }
input:checked + label { background: var(--ink); color: var(--paper) }
input:focus-visible + label { outline: 2px solid var(--soft) }
#lost:checked ~ .regions > :not(.lost), #gained:checked ~ .regions > :not(.gained) { display: none }
.regions { overflow-x: auto }
.region { display: grid; grid-template-columns: 170px; grid-auto-columns: minmax(150px, 220px);
          grid-auto-flow: column; gap: 12px; padding: .7rem 0; border-top: 1px solid var(--line) }
.title { overflow-wrap: anywhere } .title small { white-space: normal }
figure { margin: 0 } figcaption { font-size: 12px; overflow-wrap: anywhere }
figcaption b { font-weight: normal; color: var(--soft) }
.right { color: var(--right) } .wrong { color: var(--wrong) }
img { height: 56px; width: 100%; object-fit: contain; object-position: left center;
      image-rendering: pixelated }
.face img { height: 112px; image-rendering: auto }
"""
