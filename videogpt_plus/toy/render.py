"""Render the toy data: a benchmark in MVBench's layout and training samples as LLaVA JSON, as real files.

    ROOT/bench/json/TASK.json  bench/video/TASK/0007.mp4 (or a folder of pictures)  bench/tasks.json
    ROOT/train/{images,videos,questions}.json  train/{images,videos,questions}/...
    ROOT/made.json             what it was made from; another recipe renders both again, and keeps the rest of ROOT

Deterministic from the recipe; training and test share no scene.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from videogpt_plus.io import fingerprint
from videogpt_plus.io.folders import making
from videogpt_plus.io.processes import end_with_parent
from videogpt_plus.toy import world

#: Height and width of the files; the stage is the centred square.
SIZES = ((96, 96), (112, 112), (128, 128), (96, 128))
RATES = (4, 6, 8, 12)


@dataclass(frozen=True)
class Recipe:
    """How much is rendered, and from which seed."""

    # Seed of every scene.
    seed: int = 20
    # Test questions a task, one clip each.
    test_per_task: int = 100
    # Fine-tuning questions a task.
    train_per_task: int = 100
    # Captioned pictures for the image projector.
    images: int = 1800
    # Captioned clips of one chunk for the video projector.
    videos: int = 1280


def ensure_toy_data(root: Path, recipe: Recipe = Recipe(), progress: Callable[[int, int], None] | None = None) -> bool:
    """Render the data into `root` unless it is there already, whole and from this recipe; True when it was rendered.

    `progress(done, total)` is called as files appear. Nothing half-made is ever left under the final name, and of
    several processes one renders while the others wait.
    """
    with making(root, made_from(recipe), ("bench", "train"), shared=True) as scratch:
        if scratch is None:
            return False
        _render(scratch, recipe, progress)
    return True


def _render(scratch: Path, recipe: Recipe, progress: Callable[[int, int], None] | None) -> None:
    jobs = plan(recipe)
    with ProcessPoolExecutor(2, initializer=end_with_parent) as pool:
        for done, _ in enumerate(pool.map(write_clip, [scratch] * len(jobs), jobs, chunksize=16), 1):
            if progress:
                progress(done, len(jobs))
    write_annotations(scratch, jobs)


def made_from(recipe: Recipe) -> dict[str, object]:
    """The recipe, and the code that follows it: other code makes other files of the same recipe."""
    code = [fingerprint.of_path(Path(__file__).with_name(name)) for name in ("world.py", "render.py")]
    return {**asdict(recipe), "code": code}


@dataclass(frozen=True)
class Job:
    """One file to be: its scene, where it goes and how it is shot."""

    part: str  # "bench" or "train"
    group: str  # task, or "images", "videos"
    name: str  # file or folder name under the group's folder
    scene: world.Scene
    seed: tuple[int, ...]
    fps: int = 8
    repeats: int = 2  # rendered frames a segment


def folder_name(task: str) -> str:
    return task.lower().replace(" ", "_")


def plan(recipe: Recipe) -> list[Job]:
    """Every file of the recipe. A scene is drawn again until it is new, so no two clips show the same."""
    jobs, seen = [], set()

    def fresh(
        key: tuple[int, ...], make: Callable[[np.random.Generator], world.Scene]
    ) -> tuple[world.Scene, np.random.Generator]:
        rng = np.random.default_rng((recipe.seed, *key))
        while (scene := make(rng)).things in seen:
            pass
        seen.add(scene.things)
        return scene, rng

    for number, (task, spec) in enumerate(world.TASKS.items()):
        for part, count in (("train", recipe.train_per_task), ("bench", recipe.test_per_task)):
            for i in range(count):
                key = (number, part == "bench", i)
                scene, rng = fresh(key, spec.scene)
                fps, repeats = int(rng.choice(RATES)), int(rng.integers(2, 4))
                if scene.bounds:
                    fps, repeats = 4, 5 * 4 // world.SEGMENTS  # a third of the clip lasts 5 seconds
                suffix = ".mp4" if spec.kind == "video" or part == "train" else ""
                jobs.append(Job(part, task, f"{i:04d}{suffix}", scene, (recipe.seed, *key, 1), fps, repeats))
    for i in range(recipe.images):
        scene, _ = fresh((100, i), lambda rng: world.random_things(rng))
        jobs.append(Job("train", "images", f"{i:04d}.jpg", scene, (recipe.seed, 100, i, 1)))
    for i in range(recipe.videos):
        scene, _ = fresh((101, i), lambda rng: world.random_things(rng, 4))
        jobs.append(Job("train", "videos", f"{i:04d}.mp4", scene, (recipe.seed, 101, i, 1), fps=4, repeats=1))
    return jobs


def path_of(root: Path, job: Job) -> Path:
    if job.part == "bench":
        return root / "bench" / "video" / folder_name(job.group) / job.name
    inside = job.group if job.group in ("images", "videos") else f"questions/{folder_name(job.group)}"
    return root / "train" / inside / job.name


def frame_count(job: Job) -> int:
    return job.scene.segments * job.repeats if not job.scene.bounds else 3 * 5 * job.fps


def write_clip(root: Path, job: Job) -> None:
    """Render one job to its mp4, picture or folder of pictures."""
    from PIL import Image

    rng = np.random.default_rng(job.seed)
    height, width = SIZES[int(rng.integers(len(SIZES)))]
    pictures = world.render(job.scene, height, width, rng)
    path = path_of(root, job)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".jpg":
        Image.fromarray(pictures[0]).save(path, quality=92)
    elif path.suffix == ".mp4":
        total = frame_count(job)
        write_mp4(path, (pictures[i * job.scene.segments // total] for i in range(total)), height, width, job.fps)
    else:
        path.mkdir()
        for i in range(3 * job.scene.segments):  # 3 pictures a second, a second a segment
            Image.fromarray(pictures[i // 3]).save(path / f"{i + 1:05d}.jpg", quality=92)


def write_mp4(path: Path, frames, height: int, width: int, fps: int) -> None:
    """H.264 in an mp4; one thread, so that the same frames make the same bytes."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps))
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.thread_count = 1
        # Slower presets, and the assembly, made other bytes of the same frames now and then on a busy machine.
        x264 = "threads=1:lookahead-threads=1:sync-lookahead=0:asm=0"
        stream.options = {"crf": "14", "preset": "ultrafast", "x264-params": x264}
        for pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p", threads=1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def prompt(scene: world.Scene) -> str:
    """The benchmark's own wording of a question with options."""
    listed = "\n".join(f"({'ABCD'[i]}) {c}" for i, c in enumerate(scene.candidates))
    return f"Question: {scene.question}\nOptions:\n{listed}\nOnly give the best option."


def bounds_of(job: Job) -> dict:
    """`start` and `end` in whole seconds, a second inside the part that the question is about."""
    if not job.scene.bounds:
        return {}
    part = job.scene.bounds[0] // world.SEGMENTS
    return {"start": 5 * part + 1, "end": 5 * part + 4}


def benchmark_entry(job: Job) -> dict:
    s = job.scene
    return {
        "video": job.name,
        "question": s.question,
        "candidates": list(s.candidates),
        "answer": s.answer,
        **bounds_of(job),
    }


def training_entry(root: Path, job: Job) -> dict:
    kind = "image" if job.group == "images" else "video"
    if job.group in ("images", "videos"):
        human, reply = f"<{kind}>\nDescribe this {kind}.", world.caption(job.scene)
    else:
        letter = "ABCD"[job.scene.candidates.index(job.scene.answer)]
        human, reply = f"<video>\n{prompt(job.scene)}", f"({letter})"
    return {
        "id": f"{folder_name(job.group)}/{job.name}/{'-'.join(map(str, job.seed))}",
        kind: path_of(root, job).relative_to(root / "train").as_posix(),
        "conversations": [{"from": "human", "value": human}, {"from": "gpt", "value": reply}],
        **bounds_of(job),
    }


def write_annotations(root: Path, jobs: list[Job]) -> None:
    bench, train = root / "bench", root / "train"
    (bench / "json").mkdir()
    table = {}
    for task, spec in world.TASKS.items():
        entries = [benchmark_entry(j) for j in jobs if j.part == "bench" and j.group == task]
        (bench / "json" / f"{folder_name(task)}.json").write_text(json.dumps(entries, indent=1))
        table[task] = {
            "folder": f"video/{folder_name(task)}",
            "kind": spec.kind,
            "bounds": spec.scene is world.color_in_bounds,
            "group": spec.group,
            "needs_level": spec.needs_level,
        }
    (bench / "tasks.json").write_text(json.dumps(table, indent=1))
    for group in ("images", "videos", "questions"):
        picked = [
            j
            for j in jobs
            if j.part == "train" and (j.group == group or (group == "questions" and j.group in world.TASKS))
        ]
        (train / f"{group}.json").write_text(json.dumps([training_entry(root, j) for j in picked], indent=1))
