"""Training batches: one picture, several instructions packed behind it, and what the auxiliary losses need.

    tokens   <vision> p0 … p191 </vision> | instruction 1 <start> plan 1 <end> | instruction 2 <start> plan 2 <end> | …
    may see  the picture's tokens and the earlier tokens of the same segment

Everything an auxiliary loss is told (which patches show which object) comes from the scene file; the saved model has
none of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from embodied.language import examples
from embodied.language.questions import describe_questions, locate_questions, verify_questions
from embodied.language.surface import Mention
from embodied.plan import Place, Plan
from embodied.planner.jobs import NO, YES, Box, Job, Located, located_to_text, prompt_for
from embodied.planner.picture import COLS, HEIGHT, PATCH, ROWS, VISUAL_TOKENS, WIDTH
from embodied.planner.plan_text import STEP, plan_to_text
from embodied.planner.tokenizer import END, START
from hardware.camera_model import CameraModel
from hardware.errors import SceneError
from sim.rendering import camera_model
from sim.scene import COLORS, CONTAINERS, KINDS, ObjectSpec, Scene

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TEXT = 384  # text tokens behind a picture
WATCHED = 176  # attention targets a picture
NOWHERE = 0  # place of the token before the picture among those to look at: where to look for what is not there
IGNORE = -100
NO_KIND, NO_COLOR = len(KINDS), len(COLORS)
#: A patch is of no object that shows less than this share of itself there, unless it fills a quarter of the patch.
_LEAST_SHARE = 0.12
LOOK_FOR_MENTION, LOOK_FOR_POINT = 2, 3  # layers whose first head is shown where to look

Batch = dict[str, NDArray[Any]]


def front_camera(scene: Scene) -> CameraModel:
    """The first fixed camera of a scene at the model's picture size."""
    spec = next(c for c in scene.cameras if c.mount == "fixed")
    return camera_model(spec, np.eye(4), (WIDTH, HEIGHT))


def foot_of(spec: ObjectSpec) -> NDArray[np.float64]:
    """Where plans point: an object's foot; a drawer's handle's foot."""
    from embodied.language.view import handle_foot

    if spec.kind == "drawer":
        return np.array([*handle_foot(spec), 0.0])
    return np.array([*spec.position, spec.z])


@dataclass(frozen=True)
class PatchLabels:
    """What the patches of a picture show."""

    kind: NDArray[np.int64]  # (192,) index into KINDS, NO_KIND for none
    color: NDArray[np.int64]  # (192,)
    foot: NDArray[np.float32]  # (192, 2) the object's foot in number bins, NaN for none
    of_object: NDArray[np.bool_]  # (objects, 192)
    feet: NDArray[np.float64]  # (objects, 2) normalised
    share: NDArray[np.float32]  # (192,) one part of its object, so that a button counts as much as a tray; 0 for none

    def wanted(self) -> Batch:
        """What the losses of the patches are told: the part of a row that has nothing to do with words."""
        return {"kind": self.kind, "color": self.color, "foot": self.foot, "share": self.share}


def label_patches(scene: Scene, camera: CameraModel) -> PatchLabels:
    """Which patch shows which object, from outlines painted one over the other, far ones first; the arm is left out.

    A patch is of the object that has the largest share of *its own* pixels in it, so that a cube in a bowl keeps its patch.
    """
    count = len(scene.objects)
    tiles = _visible(scene, camera).reshape(ROWS, PATCH, COLS, PATCH).transpose(0, 2, 1, 3)
    pixels = (tiles.reshape(1, VISUAL_TOKENS, -1) == np.arange(count)[:, None, None]).sum(2)
    whole = np.maximum(pixels.sum(1, keepdims=True), 1)
    part = np.where(pixels >= np.minimum(PATCH * PATCH // 4, _LEAST_SHARE * whole), pixels / whole, 0.0)
    owner = np.argmax(np.vstack([np.full((1, VISUAL_TOKENS), 1e-9), part]), 0) - 1
    of_object = owner[None] == np.arange(count)[:, None]
    kind = np.full(VISUAL_TOKENS, NO_KIND)
    color = np.full(VISUAL_TOKENS, NO_COLOR)
    foot = np.full((VISUAL_TOKENS, 2), np.nan, np.float32)
    feet = np.zeros((count, 2))
    for index, spec in enumerate(scene.objects):
        feet[index] = camera.project(foot_of(spec)) / (WIDTH, HEIGHT)
        mine = of_object[index]
        kind[mine], color[mine] = KINDS.index(spec.kind), COLORS.index(spec.color)
        foot[mine] = feet[index] * (1000 / STEP)
    share = (of_object / np.maximum(of_object.sum(1, keepdims=True), 1)).sum(0).astype(np.float32)
    return PatchLabels(kind, color, foot, of_object, feet, share)


def _visible(scene: Scene, camera: CameraModel) -> NDArray[np.uint8]:
    """(HEIGHT, WIDTH) the number of the object that a pixel shows; the number of objects where it shows none."""
    import cv2

    eye = camera.T_base_camera[:3, 3]

    def far(spec: ObjectSpec) -> float:
        behind = spec.size_m / 2 if spec.kind in CONTAINERS else 0.0  # what lies in it is painted over it
        return float(np.linalg.norm(eye - (*spec.position, spec.z + spec.height_m / 2))) + behind

    shown = np.full((HEIGHT, WIDTH), len(scene.objects), np.uint8)
    for index in sorted(range(len(scene.objects)), key=lambda i: -far(scene.objects[i])):
        hull = cv2.convexHull(np.round(_outline(scene.objects[index], camera)).astype(np.int32))
        cv2.fillConvexPoly(shown, hull, index)
    return shown


@dataclass(frozen=True)
class Said:
    """Words and the answer to them. ``labels``, ``points``: the object of each label and each point of the answer."""

    words: str
    answer: str
    mentions: tuple[Mention, ...]
    labels: tuple[int, ...] = ()
    points: tuple[int, ...] = ()


def planned(words: str, plan: Plan, mentions: tuple[Mention, ...], feet: NDArray[np.float64]) -> Said:
    """An instruction and its plan."""
    labels, points = [], []
    for call in plan.calls:
        point = getattr(call, "point", None)
        if point is not None:
            nearest = int(np.argmin(((feet - point) ** 2).sum(1)))
            labels.append(nearest)
            points += [nearest] * (2 if isinstance(call, Place) and call.top is not None else 1)
    return Said(words, plan_to_text(plan), mentions, tuple(labels), tuple(points))


def _outline(spec: ObjectSpec, camera: CameraModel) -> NDArray[np.float64]:
    """Pixels (N, 2) of the lower and the upper rim of an object."""
    round_ = spec.kind not in ("cube", "tray", "drawer", "button")
    angles = np.arange(16) * (np.pi / 8) if round_ else np.deg2rad(spec.yaw_deg + 45.0 + 90.0 * np.arange(4))
    radius = spec.size_m / 2 * (1.0 if round_ else np.sqrt(2.0))
    rim = np.stack([np.cos(angles), np.sin(angles)], 1) * radius + spec.position
    return camera.project(np.concatenate([np.c_[rim, np.full(len(rim), z)] for z in (spec.z, spec.z + spec.height_m)]))


def box_of(spec: ObjectSpec, camera: CameraModel) -> Box:
    """The box around an object in the picture, from the outline of its lower and upper rim; normalised."""
    uv = _outline(spec, camera) / (camera.intrinsics.width, camera.intrinsics.height)
    low, high = np.clip(uv.min(0), 0.0, 1.0), np.clip(uv.max(0), 0.0, 1.0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


#: How often each job is drawn for training; the rest are plans.
JOB_SHARE: dict[Job, float] = {"verify": 0.19, "point": 0.12, "describe": 0.03}


def conversation(
    scene: Scene, camera: CameraModel, feet: NDArray[np.float64], rng: np.random.Generator, count: int
) -> list[Said]:
    """``count`` instructions and questions about a scene with what they are to be answered."""
    drawn = rng.choice(4, size=count, p=[*JOB_SHARE.values(), 1.0 - sum(JOB_SHARE.values())])
    names = {spec.name: i for i, spec in enumerate(scene.objects)}
    said: list[Said] = []
    makers = (verify_questions, locate_questions, describe_questions)
    for index, (job, make) in enumerate(zip(JOB_SHARE, makers, strict=True)):
        wanted = int(np.sum(drawn == index))
        for asked in make(scene, camera, rng, wanted) if wanted else ():
            prompt = prompt_for(job, asked.text)
            shift = prompt.index(asked.text)
            mentions = tuple(Mention(m.char_start + shift, m.char_end + shift, m.objects) for m in asked.mentions)
            if asked.answer is not None:
                said.append(Said(prompt, YES if asked.answer else NO, mentions))
                continue
            indices = tuple(names[name] for name in asked.names)
            specs = [scene.objects[i] for i in indices]
            located = [
                Located(
                    spec.label, (float(feet[i][0]), float(feet[i][1])), box_of(spec, camera) if job == "point" else None
                )
                for i, spec in zip(indices, specs, strict=True)
            ]
            points = tuple(i for i in indices for _ in range(2 if job == "point" else 1))
            said.append(Said(prompt, located_to_text(located), mentions, indices, points))
    plans = count - len(said)
    said += [planned(e.instruction, e.plan, e.mentions, feet) for e in examples(scene, camera, rng, plans)]
    return [said[i] for i in rng.permutation(len(said))]


class Packer:
    """Turns a scene and its picture into one row of a batch."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self._fast = tokenizer.backend_tokenizer
        convert = tokenizer.convert_tokens_to_ids
        self._start, self._end, self._pad = (int(convert(t)) for t in (START, END, tokenizer.pad_token))
        self._opens = {int(convert(t)) for t in ('","point_2d":[', '],"top_2d":[', '],"bbox_2d":[')}
        self._comma = self._fast.encode(",").ids[0]
        self._closes = int(convert("]}"))
        direct = ("reach", "pick", "open", "close", "press")
        self._before_label = {
            int(convert(t)) for t in ('","object":"', '{"label":"', *(f'{{"skill":"{s}","object":"' for s in direct))
        }

    def row(self, scene: Scene, rng: np.random.Generator, *, tries: int = 18) -> Batch | None:
        """Pack up to ``TEXT`` tokens of new words about a scene; None when nothing can be said of it."""
        camera = front_camera(scene)
        labels = label_patches(scene, camera)
        out: Batch = {
            "ids": np.full(TEXT, self._pad),
            "segment": np.full(TEXT, -1),
            "position": np.zeros(TEXT, np.int64),
            "target": np.full(TEXT, IGNORE),
            "watch_at": np.zeros(WATCHED, np.int64),
            "watch_layer": np.zeros(WATCHED, np.int64),  # 0 for none
            "watch_where": np.zeros((WATCHED, 1 + VISUAL_TOKENS), np.float32),
            **labels.wanted(),
        }
        try:
            found = conversation(scene, camera, labels.feet, rng, tries)
        except SceneError:
            return None
        at, watched = 0, 0
        names = {spec.name: i for i, spec in enumerate(scene.objects)}
        for number, said in enumerate(found, 1):
            words = self._fast.encode(said.words, add_special_tokens=False)
            answer = self._fast.encode(said.answer, add_special_tokens=False).ids
            ids = [*words.ids, self._start, *answer, self._end]
            if at + len(ids) > TEXT:
                continue
            here = slice(at, at + len(ids))
            out["ids"][here], out["segment"][here] = ids, number
            out["position"][here] = np.arange(len(ids))
            begin = at + len(words.ids)
            out["target"][begin : at + len(ids) - 1] = ids[len(words.ids) + 1 :]
            looks = [*self._mentions(said, words.offsets, names), *self._looks(said, answer, len(words.ids) + 1)]
            for offset, layer, objects in looks[: WATCHED - watched]:
                where = labels.of_object[objects].any(0)
                if where.any() or not objects:
                    out["watch_at"][watched], out["watch_layer"][watched] = at + offset, layer
                    out["watch_where"][watched, 1:] = where
                    out["watch_where"][watched, NOWHERE] = not objects
                    watched += 1
            at += len(ids)
        return out if at else None

    @staticmethod
    def _mentions(
        said: Said, offsets: list[tuple[int, int]], names: dict[str, int]
    ) -> Iterator[tuple[int, int, list[int]]]:
        for mention in said.mentions:
            inside = [i for i, (a, b) in enumerate(offsets) if a < mention.char_end and b > mention.char_start]
            if not inside:
                continue
            if not mention.objects:
                yield inside[-1], LOOK_FOR_MENTION, []
            for name in mention.objects:  # one by one, so that no object of a group is overlooked
                yield inside[-1], LOOK_FOR_MENTION, [names[name]]

    def _looks(self, said: Said, answer: list[int], offset: int) -> Iterator[tuple[int, int, list[int]]]:
        """Positions that predict a label or a coordinate, with the object they are about, in the order of the answer."""
        label, point, in_point = 0, -1, False
        for i, token in enumerate(answer):
            if token in self._before_label and label < len(said.labels):
                yield offset + i, LOOK_FOR_POINT, [said.labels[label]]
                label += 1
            elif token in self._opens and point + 1 < len(said.points):
                in_point, point = True, point + 1
                yield offset + i, LOOK_FOR_POINT, [said.points[point]]
            elif token == self._comma and in_point:
                yield offset + i, LOOK_FOR_POINT, [said.points[point]]
            elif token == self._closes:
                in_point = False


def augment(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Small changes of exposure, white balance and noise, so that no exact pixel value matters."""
    gain = rng.normal(1.0, 0.06) * rng.normal(1.0, 0.025, 3)
    out = image.astype(np.float32) * gain + rng.normal(0.0, 4.0)
    if rng.random() < 0.5:
        out += rng.normal(0.0, rng.uniform(1.0, 5.0), image.shape).astype(np.float32)
    return np.clip(out, 0, 255).astype(np.uint8)


def batches(
    folder: Path, tokenizer: PreTrainedTokenizerFast | None, *, size: int, more: int = 0, seed: int, start: int = 0
) -> Iterator[Batch]:
    """Endless batches from the shards in ``folder``, which may grow while this runs. ``start`` skips that many.

    ``size`` pictures with words, then ``more`` without, of which there is only what their patches show; without a tokenizer
    they are all of that sort.
    """
    from embodied.planner.rendering import shards

    packer = None if tokenizer is None else Packer(tokenizer)
    cache: dict[Path, tuple[list[Scene], NDArray[np.uint8]]] = {}
    number = start
    while True:
        rng = np.random.default_rng([seed, number])
        known = shards(folder)
        rows: list[Batch] = []
        while len(rows) < size + more:
            shard = known[int(rng.integers(len(known)))]
            if shard.path not in cache:
                cache[shard.path] = (shard.scenes(), shard.images())
            scenes, images = cache[shard.path]
            index = int(rng.integers(len(scenes)))
            scene = scenes[index]
            row: Batch | None
            if packer is not None and len(rows) < size:
                row = packer.row(scene, rng)
            else:
                row = label_patches(scene, front_camera(scene)).wanted()
            if row is not None:
                row["image"] = augment(images[index], rng)
                rows.append(row)
        # What only rows with words have is shorter than the rest.
        yield {key: np.stack([row[key] for row in rows if key in row]) for key in rows[0]}
        number += 1
