"""``nullclass guard``: answers over standard input and output."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any, TextIO

import tyro

from nullclass.cli.common import Device, NullRate
from nullclass.cli.models import Model, ModelOptions
from nullclass.core.checks import check_count
from nullclass.core.errors import UserError
from nullclass.core.files import cannot_write

if TYPE_CHECKING:
    from nullclass.serving import Guard

MAX_LINE = 64 * 2**20
"""Most characters of a line."""


@dataclass(frozen=True)
class Command:
    """Answer images from standard input, one JSON line each; count, log, raise an alarm.

    A line is an object with images, nested lists of pixels in [0,1] of the shape (N, C, H, W) or
    (C, H, W), and, if you like, an id. The answer is a line with the id and answers or an error. At
    the end the counters are printed on standard error.
    """

    model: Model = field(default_factory=ModelOptions)
    null_rate: NullRate = None
    band: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="LOW HIGH")] = None
    """Null rate on clean images in use. Default: that of the threshold if it is calibrated, else
    measured on test images, an interval of confidence 0.99."""
    calibrate: int = 2000
    """Number of test images for that, from the first; or all if there are fewer."""
    mean_images: float = 1_000_000
    """The mean number of images between false alarms is at least this."""
    max_images: int = 1024
    """Most images in a line."""
    log: Path | None = None
    """File to which log lines are appended. Default: standard error."""
    device: Device = "auto"

    def run(self) -> None:
        """Run the command."""
        from nullclass.core.devices import find_device
        from nullclass.core.documents import to_json
        from nullclass.serving import Guard

        check_count("--calibrate", self.calibrate)
        loaded = self.model.load(find_device(self.device))
        dataset = loaded.dataset
        with _log(self.log) as log:
            guard = Guard(
                loaded.rejecting(self.null_rate),
                image_shape=dataset.image_shape,
                band=self.band,
                mean_images=self.mean_images,
                max_images=self.max_images,
                log=log,
            )
            if guard.alarm is None:
                guard.calibrate(dataset.test.up_to(self.calibrate))
            for line in _lines(sys.stdin.buffer):
                sys.stdout.write(to_json(answered(guard, line, loaded.class_names)).decode())
                sys.stdout.write("\n")
                sys.stdout.flush()
        print(to_json(guard.counters()).decode(), file=sys.stderr)


def answered(guard: Guard, line: bytes, class_names: tuple[str, ...]) -> dict[str, Any]:
    """Return the JSON values that answer a line."""
    from msgspec.structs import asdict

    from nullclass.core.documents import parse
    from nullclass.serving.guard import InvalidInputError

    def refusal(error: InvalidInputError) -> dict[str, Any]:
        values = {"kind": error.kind, "message": str(error)}
        return {"id": request.get("id"), "error": values}

    request: dict[str, Any] = {}
    try:
        if len(line) > MAX_LINE:
            raise UserError(f"a line may have {MAX_LINE:,} bytes")
        request = parse(line, dict[str, Any], "the line")
        if "images" not in request:
            raise UserError("the line has no images")
    except UserError as error:
        invalid = InvalidInputError("json", str(error))
        guard.count_invalid(invalid)
        return refusal(invalid)
    try:
        answers = guard.answer(request["images"])
    except InvalidInputError as error:
        return refusal(error)
    names = (None if a.label < 0 else class_names[a.label] for a in answers)
    return {
        "id": request.get("id"),
        "answers": [asdict(a) | {"name": name} for a, name in zip(answers, names, strict=True)],
    }


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Yield lines that are not empty; of one that is too long, a part that is too long as well."""
    while line := stream.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            while (rest := stream.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                pass
        if line.strip():
            yield line


@contextmanager
def _log(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stderr
        return
    try:
        file = path.open("a", encoding="utf-8")
    except OSError as error:
        raise cannot_write(path, error) from None
    try:
        yield file
    finally:
        with suppress(OSError):  # a full disk: the guard has counted the lines
            file.close()
