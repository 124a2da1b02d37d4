"""Start a run on this machine or a cluster: checked here first, started again there after a preemption.

    tlx launch local   --config=quickstart:tiny --name=try --processes=2 --devices=1
    tlx launch slurm   --config=configs/mine.py --name=llama-1b --nodes=4
    tlx launch gke     --config=quickstart:mlm  --name=bert --image=REGISTRY/tlx:TAG --dry-run
    tlx launch tpu-vm  --config=configs/mine.py --name=llama-1b --accelerator=v5litepod-64

The same command goes on with the run of that name. --dry-run shows every file and command and starts nothing;
--render writes the files and starts nothing; --plan=TARGET first asks `tlx plan`, and refuses what does not
fit. `tlx launch CLUSTER --help` lists a cluster's own flags; what exit codes mean and which of them are
started again: launch/EXIT_CODES.md.
"""

import argparse
import dataclasses
import os
import pathlib
import shlex

from tlx.base.errors import USAGE, DeviceMemoryError, one_of
from tlx.cli import flags
from tlx.launch.clusters import CLUSTERS
from tlx.launch.job import LaunchJob, check_name
from tlx.launch.secrets import refuse_secrets
from tlx.plan import plan
from tlx.run import RunConfig
from tlx.run.checks import resolve


def main(argv: list[str]) -> int:
    """`tlx launch CLUSTER`: exit 0 started (local: done), else the table in tlx/base/errors.py."""
    if not argv or argv[0].startswith("-"):
        parser = flags.parser(f"launch {{{','.join(CLUSTERS)}}}", __doc__)
        if argv and argv[0] in ("-h", "--help"):
            parser.print_help()
            return 0
        parser.exit(USAGE, "tlx launch: " + one_of("cluster", argv[0] if argv else "", CLUSTERS) + "\n")
    name, *rest = argv
    cluster = CLUSTERS.load(name)
    parser = flags.parser(f"launch {name}", __doc__)
    flags.add_config(parser)
    parser.add_argument("--name", required=True, help="of the run: small letters, digits and dashes")
    parser.add_argument("--workdir", help="the run's directory as its hosts see it; runs/NAME by default")
    parser.add_argument("--dry-run", action="store_true", help="show files and commands, start nothing")
    parser.add_argument("--render", metavar="DIR", help="write the files there, start nothing")
    parser.add_argument(
        "--plan", metavar="TARGET", help="refuse what does not fit there: see tlx plan --help"
    )
    _add_options(parser, cluster.options)
    refuse_secrets(rest, os.environ)
    options = flags.parse(parser, rest)
    check_name(options.name)
    config = resolve(options.config)  # what is wrong with the config is said here, not in an hour
    chosen = cluster.options(
        **{f.name: getattr(options, f.name) for f in dataclasses.fields(cluster.options)}
    )
    chosen.validate()
    if options.plan:
        _check_fits(config, options.plan)
    job = LaunchJob(
        name=options.name,
        config=options.config_words[0].removeprefix("--config="),
        overrides=tuple(options.config_words[1:]),
        workdir=options.workdir or f"runs/{options.name}",
        config_file=flags.config_file(options.config_words[0].removeprefix("--config=")),
    )
    return _act(cluster, job, chosen, options)


def _check_fits(config: RunConfig, target: str) -> None:
    """Prints what the plan says; DeviceMemoryError (exit 78), with what would help, where it does not fit."""
    found = plan(config, target)
    total, room = found.memory["total"], found.memory_available
    if not found.fits:
        advice = f"it fits with {' '.join(found.changes)}" if found.changes else "no change known here helps"
        raise DeviceMemoryError(
            f"this run needs {total / 1e9:.3g} GB a chip and {target} has {room / 1e9:.3g} ({found.method}); "
            + advice
        )
    print(
        f"plan: {total / 1e9:.3g} of {room / 1e9:.3g} GB a chip, {found.step_ms:,.0f} ms a step, "
        f"{100 * found.mfu:.0f}% MFU, {found.days:,.1f} days ({found.method})"
    )


def _act(cluster, job: LaunchJob, chosen, options: argparse.Namespace) -> int:
    """Shows, writes or starts."""
    files = cluster.render(job, chosen)
    if options.render:
        folder = pathlib.Path(options.render)
        _write(folder, files)
        print("\n".join(str(folder / file) for file in files) or "no files are needed")
        return 0
    folder = pathlib.Path("launched") / job.name
    if options.dry_run:
        for file, text in files.items():
            print(f"# ---- {folder / file}\n{text}")
        print("# ---- commands")
        for command in cluster.commands(job, chosen, folder):
            print(shlex.join(command))
        return 0
    _write(folder, files)
    return cluster.run(job, chosen, folder)


def _write(folder: pathlib.Path, files: dict[str, str]) -> None:
    if not files:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for file, text in files.items():
        (folder / file).write_text(text)


def _add_options(parser: argparse.ArgumentParser, kind: type) -> None:
    """A flag for each field of a cluster's options."""
    for field in dataclasses.fields(kind):
        flag, about = "--" + field.name.replace("_", "-"), field.metadata["help"]
        if isinstance(field.default, bool):
            parser.add_argument(flag, action="store_true", dest=field.name, help=about)
        else:
            shown = f" (default: {field.default})" if field.default not in ("", None) else ""
            parser.add_argument(
                flag, type=type(field.default), default=field.default, dest=field.name, help=about + shown
            )
