"""`tlx data prepare --runner=slurm`: an array job for each stage, which begins when the one before it has ended."""

import argparse
import pathlib
import shlex
import shutil
import subprocess
from collections.abc import Sequence

from tlx.base import place as places
from tlx.base.errors import ConfigError
from tlx.base.place import parse
from tlx.launch.job import Raw, fill, shell

_TEMPLATE = "slurm/prepare.sbatch"


def submit(options: argparse.Namespace, stages: Sequence[str]) -> int:
    """Write a script for each stage and submit them, or with --render=DIR only write them.

    Args:
        options: Flags of `tlx data prepare`.
        stages: Stages in order; "index" is the last.

    Returns:
        Exit code of sbatch.

    Raises:
        ConfigError: There is no sbatch on this machine.
    """
    folder = places.local_path(options.render or "slurm-prepare").absolute()
    if options.render is None and shutil.which("sbatch") is None:
        raise ConfigError(
            "there is no sbatch here; run this on a login node of the cluster, or use --render=DIR to write the "
            "scripts of its array jobs"
        )
    folder.mkdir(parents=True, exist_ok=True)
    previous = ""
    for stage in stages:
        script = folder / f"{stage}.sbatch"
        script.write_text(render(options, stage, folder))
        if options.render is not None:
            print(script)
            continue
        dependency = [f"--dependency=afterok:{previous}"] if previous else []
        command = ["sbatch", "--parsable", *dependency, str(script)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if result.returncode:
            return result.returncode
        # "ID" or "ID;cluster".
        previous = result.stdout.strip().split(";")[0]
        print(f"{stage}: job {previous}")
    return 0


def render(options: argparse.Namespace, stage: str, folder: pathlib.Path) -> str:
    """Return the batch script of a stage.

    Args:
        options: Flags of `tlx data prepare`.
        stage: The stage.
        folder: Folder of the logs.

    Returns:
        The script.
    """
    count = 1 if stage == "index" else options.array
    words = [*(shlex.split(options.python) or ["tlx"]), "data", "prepare", *_words(options)]
    values = {
        "name": f"prepare-{stage}",
        "last": count - 1,
        "log": f"{folder}/{stage}-%A_%a.log",
        "extra": Raw("\n".join(f"#SBATCH {word}" for word in shlex.split(options.sbatch))),
        "command": Raw(shlex.join(words)),
        "stage": stage,
        "count": count,
    }
    text = fill(_TEMPLATE, values, shell)
    if stage == "index":
        text = text.replace(' --share="$SLURM_ARRAY_TASK_ID/1"', "")
    return text.replace("\n\nset -euo", "\nset -euo") if not options.sbatch else text


def _words(options: argparse.Namespace) -> list[str]:
    """Flags of the command that each element runs."""
    # A place of this machine by its absolute path: an element may start in another folder.
    place = str(parse(options.to)) if options.to else ""
    flags = [f"--to={place}"] if place else []
    return [
        *options.config_words,
        *flags,
        f"--processes={options.processes}",
        f"--task-megabytes={options.task_megabytes}",
    ]
