r"""Start a run on this machine or a cluster: checked here first, restarted there after a preemption.

    tlx launch local --config=quickstart:tiny --name=try --processes=2 --devices=1
    tlx launch slurm --config=pretrain/bert --name=bert --nodes=4 --gpus-per-node=8 --dry-run
    tlx launch gke --config=quickstart:mlm --name=mlm --image=registry.io/me/tlx:1 --claim=runs --dry-run
    tlx launch tpu-vm --config=pretrain/gpt2 --name=gpt2 --accelerator=v5litepod-64 --zone=us-west4-a \
        --workdir=gs://lab-runs/gpt2 --dry-run

The same command resumes the run of that name. --dry-run shows every file and command and starts nothing;
--render writes the files and starts nothing; --plan=TARGET first runs `tlx plan`, and refuses a run that does
not fit. `tlx launch CLUSTER --help` lists a cluster's own flags; launch/EXIT_CODES.md says what exit codes mean
and which of them are restarted.
"""

import argparse
import dataclasses
import os
import pathlib
import shlex
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from tlx.base import place as places
from tlx.base.errors import USAGE, DeviceMemoryError, one_of
from tlx.base.field_docs import field_docs
from tlx.cli import flags
from tlx.launch.clusters import CLUSTERS
from tlx.launch.job import Cluster, LaunchJob, check_name, render
from tlx.launch.secrets import refuse_secrets
from tlx.launch.settings import RunSettings

if TYPE_CHECKING:
    from tlx.run import RunConfig


def main(argv: list[str]) -> int:
    """Run `tlx launch CLUSTER`; exit 0: started (local: done), else the table in tlx/base/errors.py."""
    if not argv or argv[0].startswith("-"):
        parser = flags.parser(f"launch {{{','.join(CLUSTERS)}}}", __doc__)
        if argv and argv[0] in ("-h", "--help"):
            parser.print_help()
            return 0
        parser.exit(USAGE, "tlx launch: " + one_of("cluster", argv[0] if argv else "", CLUSTERS) + "\n")
    name, *words = argv
    cluster = CLUSTERS.load(name)
    parser = flags.parser(f"launch {name}", __doc__)
    flags.add_config(parser)
    parser.add_argument("--name", required=True, help="name of the run: small letters, digits and dashes")
    parser.add_argument(
        "--workdir",
        required="workdir" in cluster.required,
        help="directory of the run as its hosts see it, a folder, gs:// or s3://; default: runs/NAME",
    )
    parser.add_argument("--dry-run", action="store_true", help="show files and commands, start nothing")
    parser.add_argument("--render", metavar="DIR", help="write the files there, start nothing")
    parser.add_argument(
        "--plan", metavar="TARGET", help="refuse a run that does not fit this machine: see tlx plan --help"
    )
    _add_settings(parser)
    _add_options(parser, cluster.options, cluster.required)
    refuse_secrets(words, os.environ)
    options = flags.parse(parser, words)
    # Loaded after the parser, so that --help answers at once.
    from tlx.run.checks import resolve

    check_name(options.name)
    # An error in the config is reported here, not after an hour in a queue.
    config = resolve(options.config, allow=None)
    fields = dataclasses.fields(cluster.options)
    cluster_options = cluster.options(**{field.name: getattr(options, field.name) for field in fields})
    cluster_options.validate()
    if options.plan:
        _check_fits(config, options.plan)
    workdir = options.workdir or f"runs/{options.name}"
    if places.is_bucket(workdir):
        # Not every program that reads the address takes GS:// and gs:/ for gs://.
        workdir = places.absolute_text(workdir)
    job = LaunchJob(
        name=options.name,
        config=options.config_words[0].removeprefix("--config="),
        overrides=tuple(options.config_words[1:]),
        workdir=workdir,
        config_file=flags.config_file(options.config_words[0].removeprefix("--config=")),
        settings=RunSettings(
            flags=tuple(options.flag),
            env=tuple(options.env),
            drop=tuple(options.drop),
            compilation_cache=options.compilation_cache,
        ),
        saves_to_hosts=config.checkpoint.local_every > 0,
    )
    return _launch(cluster, job, cluster_options, options)


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add the flags that change the environment of the run's processes, the same for every cluster."""
    parser.add_argument(
        "--flag",
        action="append",
        default=[],
        metavar="--xla_NAME=VALUE",
        help="set a flag of XLA or libtpu, beside those of tlx/base/compiler_settings.py; may be repeated",
    )
    parser.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set an environment variable of the run's processes, no secret; may be repeated",
    )
    parser.add_argument(
        "--drop",
        action="append",
        default=[],
        metavar="NAME",
        help="leave out a flag or a variable that tlx/base/compiler_settings.py sets; may be repeated",
    )
    parser.add_argument(
        "--compilation-cache",
        default="",
        metavar="DIR",
        help="directory of compiled programs, shared by all hosts and starts; compilation-cache in the run's "
        "directory by default, none for none",
    )


def _check_fits(config: "RunConfig", target: str) -> None:
    """Print the plan; raise DeviceMemoryError (exit 78) with changes that would help if the run does not fit."""
    from tlx.plan import plan

    estimate = plan(config, target)
    total = estimate.memory["total"]
    available = estimate.memory_available
    if not estimate.fits:
        advice = "no change known here helps"
        if estimate.changes:
            advice = f"it fits with {' '.join(estimate.changes)}"
        raise DeviceMemoryError(
            f"this run needs {total / 1e9:.3g} GB a chip and {target} has {available / 1e9:.3g} ({estimate.method}); "
            + advice
        )
    print(
        f"plan: {total / 1e9:.3g} of {available / 1e9:.3g} GB a chip, {estimate.step_ms:,.0f} ms a step, "
        f"{100 * estimate.mfu:.0f}% MFU, {estimate.days:,.1f} days ({estimate.method})"
    )


def _launch(cluster: Cluster, job: LaunchJob, cluster_options: Any, options: argparse.Namespace) -> int:
    """Show, write or start the files and commands, as the flags say; return the exit code."""
    files = render(cluster, job, cluster_options)
    if options.render:
        folder = places.local_path(options.render)
        _write(folder, files)
        print("\n".join(str(folder / file) for file in files) or "no files are needed")
        return 0
    folder = pathlib.Path("launched") / job.name
    if options.dry_run:
        for file, text in files.items():
            print(f"# ---- {folder / file}\n{text}")
        print("# ---- commands")
        for command in cluster.commands(job, cluster_options, folder):
            print(shlex.join(command))
        return 0
    _write(folder, files)
    return cluster.run(job, cluster_options, folder)


def _write(folder: pathlib.Path, files: dict[str, str]) -> None:
    if not files:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file).write_text(text)


def _add_options(parser: argparse.ArgumentParser, kind: type, required: Collection[str]) -> None:
    """Add a flag for each field of a cluster's options; argparse names all required ones that are missing."""
    docs = field_docs(kind)
    for field in dataclasses.fields(kind):
        flag = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(flag, action="store_true", dest=field.name, help=docs[field.name])
            continue
        default = "" if field.default in ("", None) else f" (default: {field.default})"
        parser.add_argument(
            flag,
            type=type(field.default),
            default=field.default,
            required=field.name in required,
            dest=field.name,
            help=docs[field.name] + default,
        )
