"""The JobSet: golden files, rules, and the Job inside it against Kubernetes' own schema.

After an intended change: TLX_GOLDEN=1 pytest tests/launch/test_gke.py, and read the diff.
"""

import copy
import os
import pathlib
import subprocess

import pytest
import yaml

from tests.launch.jobset_rules import broken_rules
from tlx import cli
from tlx.base.errors import ConfigError
from tlx.launch.gke import FILE, GkeOptions

GOLDEN = pathlib.Path(__file__).with_name("golden")
BASE = ("--image=europe-docker.pkg.dev/lab/images/tlx:1.2", "--claim=runs")
CASES = {
    "cpu": BASE,
    "gpu": (*BASE, "--accelerator=nvidia-h100-80gb", "--chips-per-host=8", "--hosts=4", "--secret=tracking"),
    "tpu": (
        *BASE,
        *("--accelerator=tpu-v5-lite-podslice", "--topology=4x8", "--hosts=8", "--slices=2", "--spot"),
        *("--queue=research", "--config.data.text.files=('/runs/my text/*.txt',)"),
    ),
    # A run in a bucket, which also saves to local disks of the nodes.
    "bucket": (
        *(
            BASE[0],
            "--workdir=gs://lab/bert-1",
            "--service-account=trainer",
            "--accelerator=nvidia-h100-80gb",
        ),
        *(
            "--chips-per-host=8",
            "--hosts=2",
            "--node-folder=/mnt/disks/ssd0/tlx",
            "--config.checkpoint.local_every=20",
        ),
    ),
}


def render(folder, *words, config="quickstart:mlm:tiny"):
    code = cli.main(["launch", "gke", f"--config={config}", "--name=bert-1", f"--render={folder}", *words])
    assert code == 0
    return (folder / FILE).read_text()


@pytest.mark.parametrize("case", CASES)
def test_rendered_files_are_the_golden_ones(tmp_path, case):
    text = render(tmp_path, *CASES[case])
    golden = GOLDEN / f"jobset-{case}.yaml"
    if os.environ.get("TLX_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_text(text)
    assert text == golden.read_text()


@pytest.mark.parametrize("case", CASES)
def test_the_rules_hold(case):
    text = (GOLDEN / f"jobset-{case}.yaml").read_text()
    jobset, config = yaml.safe_load_all(text)
    assert broken_rules(jobset, text) == []
    assert config["metadata"]["name"] == "bert-1-config"


BREAKS = {
    "restartPolicy": lambda job, pod: pod.update(restartPolicy="OnFailure"),
    "parallelism": lambda job, pod: job.update(parallelism=3),
    "backoffLimit": lambda job, pod: job.update(backoffLimit=6),
    "root": lambda job, pod: pod["securityContext"].update(runAsUser=0),
    "grace": lambda job, pod: pod.update(terminationGracePeriodSeconds=29),
    "codes": lambda job, pod: job["podFailurePolicy"]["rules"][2]["onExitCodes"]["values"].append(170),
    "volume": lambda job, pod: pod["volumes"].pop(),
}


@pytest.mark.parametrize("broken", BREAKS)
def test_a_broken_rule_is_found(broken):
    text = (GOLDEN / "jobset-tpu.yaml").read_text()
    jobset = copy.deepcopy(next(yaml.safe_load_all(text)))
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    BREAKS[broken](job, job["template"]["spec"])
    assert broken_rules(jobset, text)


@pytest.mark.parametrize("case", CASES)
def test_the_job_inside_is_one_for_kubernetes(case):
    """The API server looks at it only when the JobSet is running, and says nothing to who submitted it."""
    validate = pytest.importorskip("kubernetes_validate")
    jobset, config = yaml.safe_load_all((GOLDEN / f"jobset-{case}.yaml").read_text())
    inner = jobset["spec"]["replicatedJobs"][0]["template"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "slice"}, "spec": inner["spec"]}
    version = validate.latest_version()
    validate.validate(job, version, strict=True)
    validate.validate(config, version, strict=True)
    job["spec"]["template"]["spec"]["containers"][0]["comand"] = ["tlx"]
    with pytest.raises(validate.ValidationError):
        validate.validate(job, version, strict=True)


def test_the_file_of_a_config_travels_along(tmp_path):
    config = tmp_path / "mine.py"
    config.write_text("# größer: a 'comment'\nfrom tlx.run import base_config as get_config\n")
    jobset, config_map = yaml.safe_load_all(render(tmp_path / "out", *BASE, config=f"{config}:clm"))
    assert config_map["data"]["config.py"] == config.read_text()
    (container,) = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    assert container["args"][:3] == ["tlx", "train", "--config=/config/config.py:clm"]


def test_a_run_in_a_bucket_needs_no_claim_and_one_on_hosts_a_folder_of_theirs(tmp_path, capsys):
    jobset = next(yaml.safe_load_all((GOLDEN / "jobset-bucket.yaml").read_text()))
    pod = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"][-1] == "--workdir=gs://lab/bert-1"
    (local,) = [word for word in container["args"] if "local_folder" in word]
    (mount,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == local.partition("=")[2]]
    (volume,) = [volume for volume in pod["volumes"] if volume["name"] == mount["name"]]
    assert volume["hostPath"]["path"] == "/mnt/disks/ssd0/tlx"
    words = ["launch", "gke", "--config=quickstart:mlm:tiny", "--name=x", "--dry-run", BASE[0]]
    for more, message in (
        ([], "--claim is needed"),
        (["--workdir=gs://lab/x", "--config.checkpoint.local_every=9"], "--node-folder=/mnt/disks/ssd0/tlx"),
        (["--claim=c", "--node-folder=/mnt/x", "--config.checkpoint.local_folder=/y"], "leave it out"),
    ):
        assert cli.main([*words, *more]) == 64
        assert message in capsys.readouterr().err


def test_an_address_has_one_spelling_in_all_that_is_rendered(capsys):
    words = ["launch", "gke", "--config=quickstart:mlm:tiny", "--name=x", "--dry-run", BASE[0]]
    for address in ("GS://lab/x", "gs:/lab/x"):
        assert cli.main([*words, f"--workdir={address}"]) == 0
        printed = capsys.readouterr().out
        assert "--workdir=gs://lab/x" in printed and "gs://lab/x/compilation-cache" in printed
        assert address not in printed


def test_each_pod_counts_its_process(tmp_path):
    (container,) = next(yaml.safe_load_all((GOLDEN / "jobset-tpu.yaml").read_text()))["spec"][
        "replicatedJobs"
    ][0]["template"]["spec"]["template"]["spec"]["containers"]
    environ = {"PATH": os.environ["PATH"], "SLICE": "1", "HOSTS": "8", "JOB_COMPLETION_INDEX": "3"}
    words = [*container["command"], "sh", "-c", 'echo "$TLX_PROCESS_ID $0"', "a  b"]
    assert subprocess.run(words, env=environ, capture_output=True, text=True).stdout == "11 a  b\n"


@pytest.mark.parametrize(
    "words, message",
    [
        ({"image": ""}, "--image is needed"),
        ({"image": "gcr.io/lab/tlx"}, "needs a tag"),
        ({"node_folder": "disks/ssd0"}, "--node-folder=disks/ssd0 must be an absolute path"),
        ({"node_folder": "/"}, "--node-folder=/ must be an absolute path of the nodes below"),
        ({"node_folder": "/mnt/../etc"}, "such as /mnt/disks/ssd0/tlx"),
        ({"accelerator": "tpu-v6e-slice"}, "go together"),
        ({"accelerator": "tpu-v6e-slice", "topology": "4x4", "hosts": 2}, "--hosts=4 would fit"),
    ],
)
def test_wrong_options_are_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        GkeOptions(**{"image": "lab/tlx:1", "claim": "runs"} | words).validate()
