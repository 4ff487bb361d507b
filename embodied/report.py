"""``report.html``: one file that shows an episode to someone who was not there. Pictures and video are inside it."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from html import escape
from pathlib import Path

from embodied.drawing import PALETTE
from embodied.episode import Episode
from embodied.executor import StepRecord, describe

#: A larger video is linked, not embedded.
EMBED_BYTES = 12_000_000
_BADGE = {
    "succeeded": ("#1f9d63", "Succeeded"),
    "failed": ("#c8402f", "Failed"),
    "refused": ("#b7791f", "Refused"),
    "asked": ("#2b6cb0", "Asked back"),
    "interrupted": ("#6b7280", "Interrupted"),
}
_STYLE = """
:root{--ink:#1b2230;--quiet:#647084;--line:#e3e7ee;--paper:#fff;--back:#f5f6f9}
@media (prefers-color-scheme:dark){:root{--ink:#e8ebf1;--quiet:#98a3b5;--line:#2e3645;--paper:#1a202c;--back:#11151d}}
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif}
main{max-width:1080px;margin:0 auto;padding:32px 20px 64px}
h1{font-size:28px;line-height:1.25;margin:10px 0 6px;overflow-wrap:anywhere}
h2{font-size:13px;letter-spacing:.08em;text-transform:uppercase;color:var(--quiet);margin:0 0 12px}
.badge{display:inline-block;color:#fff;border-radius:999px;padding:3px 14px;font-weight:600;font-size:14px}
.warn{display:inline-block;border:1px solid #b7791f;color:#b7791f;border-radius:999px;padding:2px 12px;font-size:14px;
margin-left:8px}
.sentence{color:var(--quiet);margin:0 0 22px;font-size:17px}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr));gap:18px}
section{background:var(--paper);border:1px solid var(--line);border-radius:12px;padding:18px;
margin-bottom:18px;min-width:0}
img,video{width:100%;border-radius:8px;display:block;background:#000}
figure{margin:0}figcaption{font-size:14px;color:var(--quiet);margin-top:8px}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:15px}
th{text-align:left;color:var(--quiet);font-weight:500;font-size:13px}
th,td{padding:8px 10px 8px 0;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}.num{display:inline-block;width:24px;height:24px;line-height:24px;border-radius:50%;
color:#fff;text-align:center;font-size:13px;font-weight:600}
.ok{color:#1f9d63;font-weight:600}.no{color:#c8402f;font-weight:600}.mono{font-family:ui-monospace,Menlo,Consolas,monospace;
font-size:13px}dl{display:grid;grid-template-columns:auto 1fr;gap:6px 18px;margin:0;font-size:15px}
dt{color:var(--quiet)}
dd{margin:0;overflow-wrap:anywhere}pre{overflow-x:auto;font-size:13px;margin:10px 0 0}summary{cursor:pointer}
"""


def report_html(episode: Episode, pictures: Mapping[str, bytes], video: Path | None = None) -> str:
    """The page. ``pictures``: PNG bytes by file name (``picture_plan.png``, ``picture_end.png``)."""
    color, word = _BADGE[episode.outcome]
    scripted = "".join(f'<span class="warn">scripted {escape(what)}</span>' for what in episode.scripted)
    figures = [
        _picture(pictures.get("picture_plan.png"), "What the camera saw, with the plan's points. A cross marks the foot "
                 "of the object that is meant; a ring the top of a support or a destination."),
        _video(video),
        _picture(pictures.get("picture_end.png"), "The table after the episode."),
    ]  # fmt: skip
    media = "".join(f"<section>{figure}</section>" for figure in figures if figure)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(episode.instruction)}: {word.lower()}</title><style>{_STYLE}</style></head><body><main>"
        f'<span class="badge" style="background:{color}">{word}</span>{scripted}'
        f'<h1>“{escape(episode.instruction)}”</h1><p class="sentence">{escape(_sentence(episode))}</p>'
        f'<div class="grid">{media}</div>'
        f"{_plan(episode)}{_judgement(episode)}{_facts(episode)}{_raw(episode)}"
        "</main></body></html>\n"
    )


def _sentence(episode: Episode) -> str:
    sentence = episode.sentence or episode.outcome
    return sentence[:1].upper() + sentence[1:] + ("" if sentence.endswith((".", "?", "!")) else ".")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _picture(content: bytes | None, caption: str) -> str:
    if content is None:
        return ""
    uri = _data_uri(content, "image/png")
    return f'<figure><img alt="{escape(caption)}" src="{uri}"><figcaption>{escape(caption)}</figcaption></figure>'


def _video(path: Path | None) -> str:
    if path is None or not path.is_file() or path.stat().st_size == 0:
        return ""
    embed = path.stat().st_size <= EMBED_BYTES
    source = _data_uri(path.read_bytes(), "video/mp4") if embed else escape(path.name)
    return (
        f'<figure><video controls muted autoplay loop playsinline src="{source}"></video>'
        "<figcaption>The episode in the robot's own time, with the wrist camera's view inset.</figcaption></figure>"
    )


def _plan(episode: Episode) -> str:
    if episode.plan is None:
        return ""
    records = {record.index: record for record in episode.records}
    rows = []
    # After the plan's own steps come those found in a later picture.
    later = [(record.index, record.call) for record in episode.records if record.index >= len(episode.plan.calls)]
    for index, call in [*enumerate(episode.plan.calls), *later]:
        r, g, b = PALETTE[index % len(PALETTE)]
        rows.append(
            f'<tr><td><span class="num" style="background:rgb({r},{g},{b})">{index + 1}</span></td>'
            f"<td>{escape(describe(call))}</td><td class=mono>{_point(getattr(call, 'point', None))}</td>"
            f"{_outcome(records.get(index))}</tr>"
        )
    head = (
        "<tr><th></th><th>call</th><th>point in the picture</th><th>target, cm</th><th>outcome</th><th>steps</th></tr>"
    )
    return f"<section><h2>Plan</h2><div class=scroll><table>{head}{''.join(rows)}</table></div></section>"


def _point(point: tuple[float, float] | None) -> str:
    return "" if point is None else f"{point[0]:.3f}, {point[1]:.3f}"


def _outcome(record: StepRecord | None) -> str:
    if record is None:
        return "<td></td><td>not carried out</td><td></td>"
    target = "" if record.goal is None else ", ".join(f"{100 * float(v):.1f}" for v in record.goal.to)
    tries = f" at attempt {record.attempts}" if record.attempts > 1 else ""
    mark = f'<span class="{"ok" if record.status == "done" else "no"}">{record.status}</span>{tries}'
    why = f"<br>{escape(record.why)}" if record.why else ""
    return f"<td class=mono>{target}</td><td>{mark}{why}</td><td>{record.steps}</td>"


def _judgement(episode: Episode) -> str:
    if episode.judgement is None:
        return ""
    rows = "".join(
        f'<tr><td class="{"ok" if c.held else "no"}">{"yes" if c.held else "no"}</td><td>{escape(c.text)}</td></tr>'
        for c in episode.judgement.conditions
    )
    note = (
        "Judged on the true scene after the episode by a referee whose word reaches neither planner nor policy. "
        f"Yardstick: {escape(episode.judgement.yardstick)}."
    )
    return f"<section><h2>Was it done?</h2><table>{rows}</table><figcaption>{note}</figcaption></section>"


def _facts(episode: Episode) -> str:
    seconds = {"plan": "planning", "motion": "motion, robot's time", "wall": "in all, wall clock"}
    facts = {
        "planner": f"{episode.planner}{' (scripted: reads the true scene)' if 'planner' in episode.scripted else ''}",
        "policy": f"{episode.policy}{' (scripted experts, not learned)' if 'policy' in episode.scripted else ''}",
        "scene": episode.scene,
        "seed": str(episode.seed),
        **{
            f"time {label}": f"{episode.seconds[name]:.2f} s"
            for name, label in seconds.items()
            if name in episode.seconds
        },
    }
    rows = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return f"<section><h2>How</h2><dl>{rows}</dl></section>"


def _raw(episode: Episode) -> str:
    text = escape(json.dumps(episode.to_json(), indent=2))
    return f"<section><details><summary>result.json</summary><pre>{text}</pre></details></section>"
