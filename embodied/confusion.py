"""The page of failures: pictures with the points of the answer and of the truth, and what was taken for what.

One self-contained HTML file per suite: it needs no network and no other file. Failures beside it as JSON lines, for
programs.
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from embodied.drawing import jpeg
from embodied.score import Answer, Mark, Picture, Report
from embodied.statistics import Rate
from hardware.errors import EmbodiedError

#: Failures shown with their picture; a page of more is slow to open. The others are listed in the JSON lines only.
MOST_PICTURES = 300
_WIDTH = 560
_WANTED, _GOT, _PAPER, _INK = (20, 150, 90), (214, 48, 49), (255, 255, 255), (24, 28, 36)
_STYLE = """
:root{--ink:#1c2330;--quiet:#657086;--line:#e3e7ee;--paper:#fff;--back:#f5f6f9;--good:#148a55;--bad:#c8402f;
--heat:214,48,49;--calm:20,150,90}
@media (prefers-color-scheme:dark){:root{--ink:#e8ebf1;--quiet:#98a3b5;--line:#2e3645;--paper:#1a202c;--back:#11151d;
--good:#3ecf8e;--bad:#ff7b6b}}
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif}
main{max-width:1320px;margin:0 auto;padding:28px 20px 64px}
h1{font-size:26px;line-height:1.25;margin:0 0 4px}
h2{font-size:13px;letter-spacing:.08em;text-transform:uppercase;color:var(--quiet);margin:0 0 12px}
.lead{color:var(--quiet);margin:0 0 20px}
section{background:var(--paper);border:1px solid var(--line);border-radius:12px;padding:18px;margin-bottom:18px;
min-width:0}
.two{columns:2 480px;column-gap:18px}.two section{break-inside:avoid}
.two{margin-bottom:18px}.two section:last-child{margin-bottom:0}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:14px;width:100%}
th{text-align:left;color:var(--quiet);font-weight:500;font-size:13px;vertical-align:bottom}
th,td{padding:6px 10px 6px 0;border-bottom:1px solid var(--line)}tr:last-child td{border-bottom:0}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;padding-right:12px}
.bar{display:inline-block;width:120px;height:8px;border-radius:4px;background:rgba(var(--heat),.35);
vertical-align:middle;overflow:hidden}
.bar i{display:block;height:100%;background:var(--good)}
.matrix{width:auto}.matrix td:first-child{white-space:nowrap;padding-right:14px}.matrix td.n{min-width:46px;
text-align:center;padding:6px 8px;border:1px solid var(--paper)}
.matrix th.n{text-align:center;padding:6px 8px}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,390px),1fr));gap:18px}
.card{background:var(--paper);border:1px solid var(--line);border-radius:12px;overflow:hidden;display:flex;
flex-direction:column}
.card img{width:100%;display:block;background:#000}
.card div{padding:12px 14px 14px}.card p{margin:0 0 6px;overflow-wrap:anywhere}.card .say{font-size:16px;
font-weight:600;line-height:1.35}
.tag{display:inline-block;border:1px solid var(--line);border-radius:999px;padding:0 9px;font-size:12px;
color:var(--quiet);margin:0 4px 4px 0}
.fault{border-color:var(--bad);color:var(--bad)}.good{color:var(--good);font-weight:600}.bad{color:var(--bad);
font-weight:600}
.key{font-size:14px;color:var(--quiet)}.dot{display:inline-block;width:11px;height:11px;border-radius:50%;
margin:0 5px 0 12px;vertical-align:-1px}
select{font:inherit;color:inherit;background:var(--paper);border:1px solid var(--line);border-radius:8px;
padding:3px 8px}
"""
_SCRIPT = """
const kind=document.getElementById('kind'),fault=document.getElementById('fault');
function show(){let n=0;for(const c of document.querySelectorAll('.card')){
const on=(!kind.value||c.dataset.kind===kind.value)&&(!fault.value||c.dataset.fault===fault.value);
c.style.display=on?'':'none';n+=on}document.getElementById('shown').textContent=n}
kind.onchange=fault.onchange=show;show();
"""


@dataclass
class FailurePage:
    """Collects the answers of one suite while it runs; ``write`` makes the page.

    Only failures keep their pictures, as JPEG, so memory stays small.
    """

    most_pictures: int = MOST_PICTURES
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    by_tag: dict[str, list[bool]] = field(default_factory=dict)
    failures: list[tuple[Answer, bytes]] = field(default_factory=list)

    def add(self, answer: Answer) -> None:
        """One answer, right or wrong."""
        self.pairs.update(answer.pairs)
        for tag in answer.tags:
            self.by_tag.setdefault(tag, []).append(answer.right)
        if not answer.right:
            shown = len(self.failures) < self.most_pictures
            self.failures.append((answer, jpeg(drawn(answer), quality=82) if shown else b""))

    def write(self, folder: Path, report: Report) -> Path:
        """Write ``SUITE.html`` and ``SUITE.jsonl`` into ``folder``; returns the page. Raises ``EmbodiedError``."""
        page = folder / f"{report.suite}.html"
        lines = "".join(json.dumps(_line(answer)) + "\n" for answer, _ in self.failures)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            page.write_text(self.html(report), encoding="utf-8")
            page.with_suffix(".jsonl").write_text(lines, encoding="utf-8")
        except OSError as error:
            raise EmbodiedError(f"cannot write {page}: {error.strerror or error}; choose another folder") from error
        return page

    def html(self, report: Report) -> str:
        """The page."""
        subject = f"{report.subject}: " if report.subject else ""
        title = f"{subject}suite {report.suite}, {len(self.failures)} of {report.episodes} wrong"
        tags = {tag: Rate(sum(flags), len(flags)) for tag, flags in self.by_tag.items()}
        tables = _section("By kind of question", _rates({**report.by, "all": report.success}))
        tables += _section("Figures", _figures(report))
        tables += _section("What goes wrong", _faults([answer for answer, _ in self.failures]))
        tables += _section("By way of saying it", _rates(tags)) if tags else ""
        matrix = _section("Wanted (rows) and given (columns)", _matrix(self.pairs))
        return (
            '<!doctype html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width,initial-scale=1">'
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>"
            f"<h1>{escape(title)}</h1><p class=lead>{report.episodes} questions, seed {report.seed}; right: "
            f"{escape(str(report.success))}</p>"
            f"<div class=two>{tables}</div>{matrix}{self._cards()}</main></body></html>\n"
        )

    def _cards(self) -> str:
        shown = [(answer, picture) for answer, picture in self.failures if picture]
        if not shown:
            return _section("Failures", "<p>None.</p>" if not self.failures else "<p>See the JSON lines.</p>")
        kinds, faults = (_options(Counter(getattr(a, name) for a, _ in shown)) for name in ("kind", "fault"))
        left_out = len(self.failures) - len(shown)
        more = f" {left_out} more are in the JSON lines beside this page." if left_out else ""
        return (
            "<section><h2>Failures</h2><p class=key>"
            f'<select id=kind><option value="">all kinds</option>{kinds}</select> '
            f'<select id=fault><option value="">all faults</option>{faults}</select> '
            f"<span id=shown>{len(shown)}</span> shown.{more}"
            f"{_dot(_WANTED)}ring: what was meant{_dot(_GOT)}cross: what was answered</p></section>"
            f"<div class=cards>{''.join(_card(answer, picture) for answer, picture in shown)}</div>"
            f"<script>{_SCRIPT}</script>"
        )


def drawn(answer: Answer) -> Picture:
    """The picture with a green ring at every point that was meant and a red cross at every point of the answer."""
    height, width = answer.rgb.shape[:2]
    image = Image.fromarray(answer.rgb).resize(
        (_WIDTH, max(1, round(_WIDTH * height / width))), Image.Resampling.LANCZOS
    )
    draw = ImageDraw.Draw(image)
    taken: list[tuple[float, float]] = []
    for mark in answer.wanted_marks:
        x, y = mark.point[0] * image.width, mark.point[1] * image.height
        for radius, ink, thick in ((13, _PAPER, 5), (12, _WANTED, 3)):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=ink, width=thick)
        _label(draw, mark, (x - 14, y - 14), _WANTED, "rb", taken)
    for mark in answer.got_marks:
        x, y = mark.point[0] * image.width, mark.point[1] * image.height
        for ink, thick in ((_PAPER, 6), (_GOT, 3)):
            draw.line((x - 8, y - 8, x + 8, y + 8), fill=ink, width=thick)
            draw.line((x - 8, y + 8, x + 8, y - 8), fill=ink, width=thick)
        _label(draw, mark, (x + 14, y + 14), _GOT, "lt", taken)
    return np.asarray(image)


def _label(
    draw: ImageDraw.ImageDraw,
    mark: Mark,
    at: tuple[float, float],
    ink: tuple[int, int, int],
    anchor: str,
    taken: list[tuple[float, float]],
) -> None:
    """The mark's name beside it; several at one spot are written side by side."""
    step = 9 + 7 * len(mark.label)
    x, y = at
    while any(abs(x - a) < step and abs(y - b) < 12 for a, b in taken):
        x += step if anchor == "lt" else -step
    taken.append((x, y))
    draw.text((x, y), mark.label, fill=ink, font_size=15, anchor=anchor, stroke_width=2, stroke_fill=_PAPER)


def _line(answer: Answer) -> dict[str, object]:
    return {
        "index": answer.index, "kind": answer.kind, "instruction": answer.instruction, "fault": answer.fault,
        "wanted": answer.wanted, "got": answer.got, "tags": list(answer.tags),
    }  # fmt: skip


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2><div class=scroll>{content}</div></section>"


def _dot(rgb: tuple[int, int, int]) -> str:
    return f'<span class=dot style="background:rgb{rgb}"></span>'


def _options(counts: Counter[str]) -> str:
    return "".join(f'<option value="{escape(v)}">{escape(v)} ({n})</option>' for v, n in counts.most_common())


def _rates(rates: Mapping[str, Rate]) -> str:
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td><span class=bar><i style='width:{100 * rate.rate:.0f}%'></i></span></td>"
        f"<td class=n>{rate.rate:.0%}</td><td class=n>{rate.interval[0]:.0%} to {rate.interval[1]:.0%}</td>"
        f"<td class=n>{rate.successes} of {rate.episodes}</td></tr>"
        for name, rate in sorted(rates.items(), key=lambda item: (item[0] == "all", item[1].rate, item[0]))
    )
    head = "<tr><th></th><th></th><th class=n>right</th><th class=n>95 % interval</th><th class=n></th></tr>"
    return f"<table>{head}{rows}</table>"


def _faults(failures: list[Answer]) -> str:
    """Kinds of question against what went wrong."""
    if not failures:
        return "<p>Nothing.</p>"
    counts = Counter((answer.kind, answer.fault) for answer in failures)
    return _heat(counts, right=frozenset())


def _matrix(pairs: Counter[tuple[str, str]]) -> str:
    names = {name for pair in pairs for name in pair}
    return _heat(pairs, right=frozenset((name, name) for name in names), same_order=True)


def _heat(counts: Counter[tuple[str, str]], *, right: frozenset[tuple[str, str]], same_order: bool = False) -> str:
    """A table of counts, shaded by the share of the row; ``right`` cells in green."""
    rows = Counter[str]()
    columns = Counter[str]()
    for (row, column), n in counts.items():
        rows[row] += n
        columns[column] += n
    row_names = [name for name, _ in rows.most_common()]
    rank = {name: k for k, name in enumerate(row_names)}
    column_names = [name for name, _ in columns.most_common()]
    if same_order:
        column_names.sort(key=lambda name: rank.get(name, len(rank)))
    body = []
    for row in row_names:
        cells = []
        for column in column_names:
            n = counts[row, column]
            shade = "calm" if (row, column) in right else "heat"
            style = f' style="background:rgba(var(--{shade}),{0.12 + 0.5 * n / rows[row]:.2f})"' if n else ""
            cells.append(f"<td class=n{style}>{n or ''}</td>")
        body.append(f"<tr><td>{escape(row)}</td>{''.join(cells)}</tr>")
    head = "".join(f"<th class=n>{escape(name)}</th>" for name in column_names)
    return f"<table class=matrix><tr><th></th>{head}</tr>{''.join(body)}</table>"


def _figures(report: Report) -> str:
    rows = []
    for name, value in report.metrics.items():
        rate = report.rates.get(name)
        shown = f"{value:.1%}" if rate is not None else "–" if value != value else f"{value:.3g}"
        interval = f"{rate.interval[0]:.1%} to {rate.interval[1]:.1%} (n = {rate.episodes})" if rate is not None else ""
        rows.append(f"<tr><td>{escape(name)}</td><td class=n>{shown}</td><td class=n>{interval}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def _card(answer: Answer, picture: bytes) -> str:
    uri = f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}"
    tags = "".join(f"<span class=tag>{escape(tag)}</span>" for tag in (answer.kind, *answer.tags))
    return (
        f'<article class=card data-kind="{escape(answer.kind)}" data-fault="{escape(answer.fault)}">'
        f'<img loading=lazy alt="the picture of question {answer.index}" src="{uri}"><div>'
        f"<p class=say>“{escape(answer.instruction)}”</p>"
        f"<p><span class=good>wanted</span> {escape(answer.wanted)}</p>"
        f"<p><span class=bad>got</span> {escape(answer.got)}</p>"
        f"<span class='tag fault'>{escape(answer.fault)}</span>{tags}<span class=tag>#{answer.index}</span></div></article>"
    )
