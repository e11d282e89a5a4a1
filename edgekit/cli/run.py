"""`edgekit run`: a bundle on pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgekit.cli.output import Json, emit, note, say, table


def command(
    bundle: Annotated[Path, typer.Argument(help="A bundle.")],
    inputs: Annotated[list[str], typer.Argument(help="A picture, a folder of pictures, or a glob.")],
    picture: Annotated[
        Path | None, typer.Option(help="Where the picture with boxes goes; for several inputs, a folder.")
    ] = None,
    min_score: Annotated[float, typer.Option(help="Show detections from this score on.")] = 0.3,
    batch: Annotated[int, typer.Option(min=1, help="Pictures a run, where the model's batch is symbolic.")] = 8,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads for one inference.")] = None,
    runtime: Annotated[str | None, typer.Option(help="Another runtime than the bundle's own.")] = None,
    key: Annotated[Path | None, typer.Option(help="A public key; unsigned bundles are refused.")] = None,
    json: Json = False,
) -> None:
    """Run a bundle on pictures: print what it finds, and draw it."""
    from edgekit.bundle import Bundle
    from edgekit.evaluate.images import read_image
    from edgekit.picture import draw, find_pictures, place_drawings, save_picture
    from edgekit.predict import describe
    from edgekit.runtimes.session import open_session

    files = find_pictures(inputs)
    places = iter(place_drawings(files, picture))
    results: list[dict[str, Any]] = []
    with Bundle.open(bundle, key=key) as opened:
        opened.verify()  # every file, also those that running does not read: a damaged bundle is not used
        session = open_session(opened, threads=threads, runtime=runtime, announce=note)
    with session, _progress(len(files), quiet=json) as advance:
        for start in range(0, len(files), batch):
            chosen = files[start : start + batch]
            images = [read_image(file) for file in chosen]
            for file, image, prediction in zip(chosen, images, session.predict_batch(images), strict=True):
                found = describe(prediction, session.spec, min_score)
                place = next(places)
                save_picture(draw(image, found), place)
                results.append({"input": str(file), "picture": str(place), "found": found})
                advance()
    emit(results, json, _print)


def _print(results: list[dict[str, Any]]) -> None:
    for result in results:
        say(f"{result['input']}: {len(result['found'])} found, drawn in {result['picture']}")
        if len(results) == 1 and result["found"]:
            columns = list(result["found"][0])
            table(columns, [[_short(item[column]) for column in columns] for item in result["found"]])


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return " ".join(f"{x:.1f}" for x in value) if isinstance(value, list) else str(value)


def _progress(count: int, quiet: bool) -> Any:
    """A context manager that gives a function to call after each picture; a bar where there are several."""
    import contextlib

    if quiet or count < 2:
        return contextlib.nullcontext(lambda: None)
    return _bar(count)


def _bar(count: int) -> Any:
    import contextlib
    from collections.abc import Callable, Iterator

    from rich.console import Console
    from rich.progress import Progress

    @contextlib.contextmanager
    def bar() -> Iterator[Callable[[], None]]:
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task("pictures", total=count)
            yield lambda: progress.advance(task)

    note(f"{count} pictures")
    return bar()
