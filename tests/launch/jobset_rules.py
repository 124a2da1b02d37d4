"""What must hold of a rendered JobSet and no schema says; each rule is one line of the answer."""

import re

SECRET = re.compile(r"(?i)(hf_[a-z0-9]{20}|ghp_|AKIA[A-Z0-9]{12}|-----BEGIN|password|api_?key)")
NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


def broken_rules(jobset, text):
    """Names of the rules that a JobSet (parsed, and as text) breaks."""
    (replicated,) = jobset["spec"]["replicatedJobs"]
    job = replicated["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    env = {entry["name"]: entry.get("value") for entry in container["env"]}
    policy = job["podFailurePolicy"]["rules"]
    rules = jobset["spec"]["failurePolicy"]["rules"]
    name, hosts = jobset["metadata"]["name"], job["completions"]
    longest = f"{name}-{replicated['name']}-{replicated['replicas'] - 1}-{hosts - 1}-xxxxx"
    exits = [code for rule in policy for code in rule.get("onExitCodes", {}).get("values", [])]
    limits = container["resources"].get("limits", {})
    holds = {
        "names are DNS labels": NAME.fullmatch(name) and len(longest) <= 63,
        "podFailurePolicy needs restartPolicy Never": pod["restartPolicy"] == "Never",
        "one pod a host, all at once": job["parallelism"] == hosts and job["completionMode"] == "Indexed",
        "the JobSet restarts, not the Job": job["backoffLimit"] == 0,
        "the coordinator is the first pod": env["TLX_COORDINATOR"] == f"{name}-slice-0-0.{name}:8476",
        "the pods' names resolve": jobset["spec"]["network"]["enableDNSHostnames"]
        and jobset["spec"]["network"]["publishNotReadyAddresses"],
        "processes are counted": int(env["TLX_NUM_PROCESSES"]) == hosts * replicated["replicas"],
        "hosts are counted": int(env["HOSTS"]) == hosts,
        "tlx knows the grace period": int(env["TLX_GRACE_SECONDS"]) == pod["terminationGracePeriodSeconds"],
        "there is time to save": pod["terminationGracePeriodSeconds"] >= 30,
        "retryable codes are not fatal": not {134, 137, 139, 143, 170} & set(exits) and 0 not in exits,
        "fatal codes are": {1, 2, 64, 73, 74, 75, 76, 77, 78} <= set(policy[2]["onExitCodes"]["values"]),
        "preemption is free of charge": rules[0]["action"] == "RestartJobSetAndIgnoreMaxRestarts"
        and policy[0]["onPodConditions"][0]["type"] == "DisruptionTarget"
        and policy[1]["onExitCodes"]["values"] == [42],
        "fatal codes fail the JobSet": rules[1]["action"] == "FailJobSet",
        "policies name the container": all(
            rule["onExitCodes"]["containerName"] == container["name"] for rule in policy[1:]
        ),
        "no token of the cluster": pod["automountServiceAccountToken"] is False,
        "not root": pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0,
        "no privileges": container["securityContext"]["allowPrivilegeEscalation"] is False
        and container["securityContext"]["capabilities"]["drop"] == ["ALL"]
        and "privileged" not in text
        and "hostNetwork" not in text,
        "no secret in the file": not SECRET.search(text),
        "tlx is process 1 of its container": container["command"][2].endswith('exec "$@"'),
        "the run lies on the claim or in a bucket": any(
            a.startswith(("--workdir=/runs/", "--workdir=gs://")) for a in container["args"]
        ),
        "TPUs have a topology": ("google.com/tpu" in limits)
        == ("cloud.google.com/gke-tpu-topology" in pod["nodeSelector"]),
        "every mount has a volume": {mount["name"] for mount in container["volumeMounts"]}
        == {volume["name"] for volume in pod["volumes"]},
    }
    return [rule for rule, held in holds.items() if not held]
