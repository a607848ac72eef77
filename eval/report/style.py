"""How the page of a report looks: light and dark, and on a narrow screen each row as a card."""

STYLE = """
:root { color-scheme: light dark; --ink: #1a1a1a; --soft: #444; --paper: #fff; --line: #ddd; --rule: #888;
--hover: #f4f6f8; --yes: #0a6b3d; --no: #b00020 }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --soft: #b9bec4; --paper: #16181b; --line: #383c42;
--rule: #7a8088; --hover: #22262b; --yes: #5fd39a; --no: #ff8a96 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1248px;
margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere }
h1 { font-size: 1.7rem; line-height: 1.25; margin-bottom: .2rem } h2 { font-size: 1.2rem; margin: 2.2rem 0 .2rem }
p { max-width: 52rem; margin: .3rem 0 .7rem; color: var(--soft) }
figure { margin: 1.5rem 0 } img { max-width: 100%; height: auto; background: #fff }
figcaption { font-size: 12.5px; color: var(--soft) }
.wide { overflow-x: auto; margin-bottom: 1.2rem } table { border-collapse: collapse; font-size: 13.5px;
font-variant-numeric: tabular-nums; overflow-wrap: normal }
th, td { padding: .3rem .5rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
th { border-bottom: 2px solid var(--rule); vertical-align: bottom } tbody tr:hover { background: var(--hover) }
span { white-space: nowrap } .yes { color: var(--yes); font-weight: 600 } .no { color: var(--no); font-weight: 700 }
@media (max-width: 760px) {
body { margin: 1rem auto; padding: 0 .75rem } table, tbody { display: block } thead { display: none }
tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); border-bottom: 1px solid var(--rule);
padding: .5rem 0 } td { border: 0; padding: .15rem .25rem; min-width: 0; overflow-wrap: anywhere }
td:first-child { grid-column: 1 / -1; font-weight: 600 } td:empty { display: none }
td::before { content: attr(data-column); display: block; font-size: 11.5px; font-weight: 400; color: var(--soft) }
}
"""
