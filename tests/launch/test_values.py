"""No value of `tlx launch`, for any cluster, becomes a line of a script of its own."""

import dataclasses
import pathlib

import pytest

from tlx import cli
from tlx.base.errors import CONFIG, ConfigError
from tlx.launch.clusters import CLUSTERS
from tlx.launch.job import LaunchJob, render

JOB = LaunchJob("try", "quickstart:tiny", ("--config.train.steps=9",), "/shared/try", None)
# What a cluster needs to render anything.
REQUIRED = {
    "gke": {"image": "registry/tlx:1", "claim": "runs"},
    "tpu-vm": {"accelerator": "v5litepod-8", "zone": "a"},
}


def _cluster(name):
    cluster = CLUSTERS.load(name)
    return cluster, cluster.options(**REQUIRED.get(name, {}))


@pytest.mark.parametrize("name", CLUSTERS)
def test_a_run_in_a_bucket_is_passed_on_as_it_is(name):
    cluster, options = _cluster(name)
    if name == "tpu-vm":
        # On machines without tlx, its client is installed too.
        assert "[tpu,gcs]" in cluster.render(JOB._replace(workdir="gs://lab/try"), options)["worker.sh"]
    job = JOB._replace(workdir="s3://lab/try")
    assert "--workdir=s3://lab/try" in job.words() and "s3:/" not in str(job.log_folder)
    for text in render(cluster, job, options).values():
        assert "--workdir=s3://lab/try" in text and "s3:/lab" not in text


@pytest.mark.parametrize("name", CLUSTERS)
def test_no_value_has_a_second_line(name):
    cluster, options = _cluster(name)
    render(cluster, JOB, options)
    texts = [
        field.name for field in dataclasses.fields(options) if isinstance(getattr(options, field.name), str)
    ]
    for separator in ("\n", "\r", "\0", "\x1b", "\x85", "\u2028"):
        bad = f"x{separator}touch PWNED"
        jobs = [
            JOB._replace(name=bad),
            JOB._replace(workdir=bad),
            JOB._replace(config=bad),
            JOB._replace(overrides=(f"--config.name={bad}",)),
            JOB._replace(config_file=pathlib.Path(bad)),
        ]
        for job in jobs:
            with pytest.raises(ConfigError, match="has the control character"):
                render(cluster, job, options)
        for text in texts:
            with pytest.raises(ConfigError, match=f"--{text.replace('_', '-')}=.* has the control character"):
                render(cluster, JOB, dataclasses.replace(options, **{text: bad}))


def test_a_work_directory_cannot_become_a_command(tmp_path, capsys):
    words = ["launch", "slurm", "--config=quickstart:tiny", "--name=a", f"--render={tmp_path / 'r'}"]
    assert cli.main([*words, "--workdir=x\ntouch PWNED\n#"]) == CONFIG
    assert "--workdir=" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
