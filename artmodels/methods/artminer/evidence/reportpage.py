"""The page and the style sheet of a report. Braces that are not for `str.format` are doubled."""

__all__ = ["PAGE", "STYLE"]

STYLE = """
:root {{ color-scheme: light dark; --ink: #1d1b19; --soft: #6b645d; --paper: #faf8f5; --card: #fff; --line: #ddd6cd;
  --mark: #b3261e; }}
@media (prefers-color-scheme: dark) {{
  :root {{ --ink: #ece7e1; --soft: #a89f95; --paper: #171513; --card: #211e1b; --line: #3a352f; --mark: #ff8a7a; }}
}}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 76rem; padding: 1rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.45 system-ui, sans-serif; }}
h1 {{ font-size: 1.5rem; margin: .2rem 0 .6rem; }}
h2 {{ font-size: 1.05rem; margin: 0; overflow-wrap: anywhere; }}
p {{ margin: .3rem 0; }}
.facts, figcaption, .soft {{ color: var(--soft); font-size: .875rem; overflow-wrap: anywhere; }}
.bad {{ color: var(--mark); }}
.rank {{ display: inline-block; min-width: 1.9rem; padding: 0 .4rem; border-radius: .9rem; text-align: center;
  background: var(--ink); color: var(--paper); }}
header, article, .motion {{ background: var(--card); border: 1px solid var(--line); border-radius: .6rem;
  padding: .8rem; }}
header .columns {{ display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }}
header .columns > * {{ flex: 1 1 16rem; max-width: 30rem; }}
main {{ display: grid; gap: 1rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 34rem), 1fr)); }}
figure {{ margin: 0; min-width: 0; }}
img {{ display: block; max-width: 100%; }}
.compare {{ display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; margin: .5rem 0; }}
.frame {{ position: relative; aspect-ratio: {width} / {height}; width: 100%; max-height: 60vh; background: #808080; }}
header .frame {{ max-height: 20rem; background-color: transparent; background-position: left top; }}
.frame img {{ width: 100%; height: 100%; object-fit: contain; }}
.detail {{ background: #808080 url("{detail}") center / contain no-repeat; }}
.over {{ position: absolute; inset: 0; opacity: 0; pointer-events: none; }}
.swap {{ position: absolute; right: .4rem; bottom: .4rem; z-index: 1; width: 1.4rem; height: 1.4rem; margin: 0; }}
.swap:checked ~ .over {{ opacity: 1; }}
.canvas {{ position: relative; width: fit-content; max-width: 100%; margin: 0 auto; line-height: 0; }}
.canvas img {{ width: auto; height: auto; max-height: 26rem; }}
.canvas svg {{ position: absolute; inset: 0; width: 100%; height: 100%; overflow: hidden; }}
path, polygon {{ fill: none; vector-effect: non-scaling-stroke; }}
.dark {{ stroke: #000; stroke-width: 5px; stroke-opacity: .75; }}
.light {{ stroke: #fff; stroke-width: 2px; }}
.frame-of {{ stroke: #ffd400; stroke-width: 2px; stroke-dasharray: 6 4; }}
.motion {{ margin-top: 1rem; }}
.motion input {{ width: 1.2rem; height: 1.2rem; vertical-align: text-bottom; }}
label {{ cursor: pointer; text-decoration: underline dotted; }}
dl {{ display: grid; grid-template-columns: auto 1fr; gap: .2rem .8rem; margin: .5rem 0; font-size: .875rem; }}
dt {{ color: var(--soft); }} dd {{ margin: 0; overflow-wrap: anywhere; }}
dd, code {{ font-family: ui-monospace, monospace; overflow-wrap: anywhere; }}
@keyframes flicker {{ 0%, 49% {{ opacity: 0; }} 50%, 100% {{ opacity: 1; }} }}
#flicker:checked ~ main .over {{ animation: flicker 1.6s infinite step-end; }}
#flicker {{ position: absolute; opacity: 0; }}
#flicker:focus-visible ~ .motion {{ outline: 3px solid var(--mark); }}
#flicker:checked ~ .motion .off, #flicker:not(:checked) ~ .motion .on {{ display: none; }}
@media (prefers-reduced-motion: reduce) {{
  #flicker, .motion {{ display: none; }}
  #flicker:checked ~ main .over {{ animation: none; }}
}}
@media print {{
  #flicker, .motion, .swap, label {{ display: none; }}
  article {{ break-inside: avoid; }}
}}
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<div class="columns">
<div>
<p><bdi>{name}</bdi></p>
<p class="soft">detail of {size}</p>
<div class="frame detail" role="img" aria-label="The detail that was looked for"></div>
</div>
{whole}
<div>
<p><strong>{count}</strong></p>
<p class="soft">Box: where it was found. Dashed: the frame of the detail, as the match puts it there.</p>
<details open><summary>How it was made</summary>
<dl><dt>model</dt><dd>{model}</dd>{parameters}</dl>
</details>
</div>
</div>
</header>
<input type="checkbox" id="flicker">
<div class="motion"><label for="flicker"><span class="off">Flicker: show the detail and each place by turns</span><span
class="on">Stop the flicker</span></label></div>
<main>
{hits}
</main>
</body>
</html>
"""
