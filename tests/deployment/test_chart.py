"""The Helm chart: helm itself lints and renders it, and what comes out is valid for Kubernetes and does what the chart says.

Nothing here talks to a cluster."""

import os
import pathlib
import subprocess
import tomllib

import kubernetes_validate
import pytest
import yaml

CHART = pathlib.Path(__file__).parents[2] / "deploy/helm/keygate"
# tests/environment installs it.
HELM = os.environ.get("KEYGATE_HELM", str(CHART.parents[2] / "target/test-env/helm/helm/helm"))
KEYGATE = os.environ.get("KEYGATE_BIN", str(CHART.parents[2] / "target/debug/keygate"))
# The oldest that Chart.yaml takes, and the newest whose schemas there are.
KUBERNETES = ["1.27", "1.37"]
CONFIG = CHART / "keygate.toml"
NEEDED = {
    "config": CONFIG.read_text(),
    "database": {"passwordSecret": {"name": "database-secret"}},
    "audit": {"keySecret": {"name": "audit-secret"}},
}
# Every value is another one than the default.
ALL = {
    "replicas": 5,
    "image": {"repository": "registry.example.com:5000/a/keygate", "tag": "0.1.0-1", "pullPolicy": "Always", "pullSecrets": ["pull"]},
    "config": NEEDED["config"],
    "database": {
        "passwordSecret": {"name": "database-secret", "key": "word"},
        "migrateByHand": True,
        "ownerUrl": "postgres://keygate_owner@db.example.com/keygate?sslmode=require",
        "ownerPasswordSecret": {"name": "owner-secret", "key": "owner-word"},
        "caSecret": {"name": "ca-secret", "key": "root.pem"},
    },
    "audit": {"keySecret": {"name": "audit-secret", "key": "hex"}},
    "environmentSecrets": ["llama-key"],
    "fileSecrets": ["tls.example.com", "llama"],
    "volume": {"size": "3Gi", "storageClass": "fast"},
    "resources": {"requests": {"cpu": "2", "memory": "1Gi"}},
    "service": {"type": "LoadBalancer", "port": 80, "annotations": {"a": "b"}},
    "terminationGracePeriodSeconds": 400,
    "antiAffinity": "required",
    "podDisruptionBudget": {"maxUnavailable": 2},
    "podAnnotations": {"c": "d"},
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "networkPolicy": {
        "enabled": True,
        "from": [{"podSelector": {"matchLabels": {"app": "ingress"}}}],
        "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}],
    },
}


def helm(folder: pathlib.Path, values: dict, *arguments: str) -> subprocess.CompletedProcess:
    file = folder / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    # No cluster and no plugin of this machine's user.
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    return subprocess.run(
        [HELM, *arguments, str(CHART), "--values", str(file)], env=environment, capture_output=True, text=True, timeout=50
    )


def rendered(folder: pathlib.Path, values: dict) -> dict:
    """By kind; the Service of the single gateways and the config of the migration are apart."""
    ran = helm(folder, values, "template", "fleet", "--namespace", "models")
    assert ran.returncode == 0, ran.stderr
    found = {}
    for document in yaml.safe_load_all(ran.stdout):
        kind = document["kind"]
        if kind == "Service" and document["spec"].get("clusterIP") == "None":
            kind = "HeadlessService"
        if kind == "ConfigMap" and document["metadata"]["name"].endswith("-migrate"):
            kind = "MigrateConfigMap"
        assert kind not in found, kind
        found[kind] = document
    return found


def changed(values: dict, path: str, value) -> dict:
    """The values with another one at this path."""
    first, _, rest = path.partition(".")
    return values | {first: changed(values.get(first, {}), rest, value) if rest else value}


def refused(folder: pathlib.Path, path: str, value) -> str:
    ran = helm(folder, changed(NEEDED, path, value), "template", "fleet")
    assert ran.returncode != 0, ran.stdout
    return ran.stderr


@pytest.mark.parametrize("values", [NEEDED, ALL], ids=["needed", "all"])
def test_helm_finds_nothing_to_complain_of(values: dict, tmp_path: pathlib.Path):
    ran = helm(tmp_path, values, "lint", "--strict")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "WARN" not in ran.stdout + ran.stderr and "ERROR" not in ran.stdout


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("values", [NEEDED, ALL], ids=["needed", "all"])
def test_what_is_rendered_is_valid_for_kubernetes(values: dict, version: str, tmp_path: pathlib.Path):
    documents = rendered(tmp_path, values)
    kinds = {"ConfigMap", "PodDisruptionBudget", "Service", "HeadlessService", "StatefulSet"}
    assert set(documents) == (kinds | {"Job", "MigrateConfigMap", "NetworkPolicy"} if values is ALL else kinds)
    for document in documents.values():
        kubernetes_validate.validate(document, version, strict=True)
    # What finds the gateways is on them.
    labels = documents["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    selectors = [documents["StatefulSet"]["spec"]["selector"]["matchLabels"], documents["Service"]["spec"]["selector"]]
    for selector in selectors:
        assert selector.items() <= labels.items()
        if values is ALL:
            assert not selector.items() <= documents["Job"]["spec"]["template"]["metadata"]["labels"].items()


@pytest.mark.parametrize("values", [NEEDED, ALL], ids=["needed", "all"])
def test_pods_have_no_right_that_they_do_not_need(values: dict, tmp_path: pathlib.Path):
    documents = rendered(tmp_path, values)
    for kind in {"StatefulSet", "Job"} & set(documents):
        pod = documents[kind]["spec"]["template"]["spec"]
        security = pod["securityContext"]
        assert security["runAsNonRoot"] and security["runAsUser"] == 65532 and security["fsGroup"] == 65532
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] and not security["allowPrivilegeEscalation"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert not container["image"].endswith(":latest") and ":" in container["image"].rsplit("/")[-1]
        # Nobody else's files: the gateway refuses a secret that others may read.
        for volume in pod.get("volumes", []):
            source = volume.get("projected") or volume.get("secret")
            assert source is None or source["defaultMode"] == 0o440
    assert "Secret" not in documents


def test_a_dead_database_takes_no_gateway_out_and_restarts_none(tmp_path: pathlib.Path):
    container = rendered(tmp_path, NEEDED)["StatefulSet"]["spec"]["template"]["spec"]["containers"][0]
    probes = {name: container[name]["httpGet"] for name in ["startupProbe", "readinessProbe", "livenessProbe"]}
    # /readyz stays 200 while the database is dead (a black-box test asks); /healthz is whether the process answers.
    assert probes == {
        "startupProbe": {"path": "/healthz", "port": "http"},
        "readinessProbe": {"path": "/readyz", "port": "http"},
        "livenessProbe": {"path": "/healthz", "port": "http"},
    }
    assert tomllib.loads(CONFIG.read_text())["public_health"] is True


@pytest.mark.parametrize("values", [NEEDED, ALL], ids=["needed", "all"])
def test_every_path_of_the_config_is_mounted(values: dict, tmp_path: pathlib.Path):
    documents = rendered(tmp_path, values)
    assert documents["ConfigMap"]["data"]["keygate.toml"] == CONFIG.read_text()
    pod = documents["StatefulSet"]["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["args"][:3] == ["serve", "--config", "/etc/keygate/keygate.toml"]
    config = tomllib.loads(CONFIG.read_text())
    assert config["listen"].endswith(f":{container['ports'][0]['containerPort']}")
    mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    written = [config["keys"]["file"], config["admin"]["socket"], config["admin"]["token_file"], config["usage"]["spool"]]
    for path in written:
        assert not mounts[str(pathlib.Path(path).parent)].get("readOnly"), path
    for path in [config["keys"]["file"], config["usage"]["spool"]]:
        mount = mounts[str(pathlib.Path(path).parent)]
        claims = documents["StatefulSet"]["spec"]["volumeClaimTemplates"]
        assert [claim["metadata"]["name"] for claim in claims] == [mount["name"]], "it is lost at a restart"
    secrets = next(volume for volume in pod["volumes"] if volume["name"] == "secrets")
    files = {item["path"] for source in secrets["projected"]["sources"] for item in source["secret"]["items"]}
    for path in [config["database"]["password_file"], config["audit"]["key_file"]]:
        folder, name = os.path.split(path)
        assert mounts[folder]["readOnly"] and name in files, path
    assert ("database-ca.pem" in files) == (values is ALL)


def test_a_gateway_may_end_its_requests_before_it_is_killed(tmp_path: pathlib.Path):
    pod = rendered(tmp_path, NEEDED)["StatefulSet"]["spec"]["template"]["spec"]
    example = tomllib.loads((CHART.parents[1] / "keygate.toml").read_text())
    drain = tomllib.loads(CONFIG.read_text())["timeouts"].get("drain", example["timeouts"]["drain"])
    delay = tomllib.loads(CONFIG.read_text())["timeouts"]["drain_delay"]
    assert pod["terminationGracePeriodSeconds"] > int(drain.removesuffix("s")) + int(delay.removesuffix("s"))


def test_a_changed_config_restarts_the_gateways(tmp_path: pathlib.Path):
    def mark(config: str) -> str:
        template = rendered(tmp_path, NEEDED | {"config": config})["StatefulSet"]["spec"]["template"]
        return template["metadata"]["annotations"]["keygate/config"]

    assert mark(CONFIG.read_text()) != mark(CONFIG.read_text() + "\n# another\n")


def test_the_schema_is_migrated_by_the_owner_before_the_gateways_change(tmp_path: pathlib.Path):
    documents = rendered(tmp_path, ALL)
    job, config = documents["Job"], documents["MigrateConfigMap"]
    hooks = [document["metadata"]["annotations"] for document in (config, job)]
    assert {hook["helm.sh/hook"] for hook in hooks} == {"pre-install,pre-upgrade"}
    assert int(hooks[0]["helm.sh/hook-weight"]) < int(hooks[1]["helm.sh/hook-weight"]), "its config has to be there before it"
    pod = job["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"] == ["database", "migrate", "--config", "/etc/keygate/keygate.toml"]
    # Before an install there is neither the config nor a volume of the gateways.
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["config"]["configMap"]["name"] == config["metadata"]["name"]
    sources = [source["secret"] for source in volumes["secrets"]["projected"]["sources"]]
    assert {"name": "owner-secret", "items": [{"key": "owner-word", "path": "owner-password"}]} in sources
    # The program takes its config.
    (tmp_path / "owner-password").write_text("one")
    text = config["data"]["keygate.toml"].replace("/run/secrets/keygate/", f"{tmp_path}/")
    (tmp_path / "migrate.toml").write_text(text)
    checked = subprocess.run([KEYGATE, "check", "--config", "migrate.toml"], cwd=tmp_path, capture_output=True, text=True, timeout=20)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    config = tomllib.loads(text)
    assert config["database"]["url"] == ALL["database"]["ownerUrl"]


def test_gateways_are_on_different_nodes_and_a_drain_takes_one(tmp_path: pathlib.Path):
    for values, kind in [(NEEDED, "preferred"), (ALL, "required")]:
        documents = rendered(tmp_path, values)
        affinity = documents["StatefulSet"]["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"]
        (rule,) = affinity[f"{kind}DuringSchedulingIgnoredDuringExecution"]
        rule = rule.get("podAffinityTerm", rule)
        assert rule["topologyKey"] == "kubernetes.io/hostname"
        assert rule["labelSelector"]["matchLabels"] == documents["StatefulSet"]["spec"]["selector"]["matchLabels"]
    assert rendered(tmp_path, NEEDED)["PodDisruptionBudget"]["spec"]["maxUnavailable"] == 1


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("config", "", "config is empty"),
        ("config", CONFIG.read_text().replace("public_health = true", ""), "public_health = true"),
        ("config", CONFIG.read_text().replace("keygate@db", "keygate:hunter22@db"), "has a password"),
        ("database.passwordSecret.name", "", "database.passwordSecret.name is empty"),
        ("audit.keySecret.name", "", "audit.keySecret.name is empty"),
        ("database.password", "hunter22", "password"),
        ("image.tag", "latest", "tag"),
        ("image.repository", "keygate latest", "repository"),
        ("replicas", 0, "replicas"),
        ("replica", 3, "replica"),
        ("networkPolicy.enabled", True, "networkPolicy.from is empty"),
        ("database.migrateByHand", True, "database.ownerUrl is empty"),
        ("database", ALL["database"] | {"ownerUrl": "postgres://keygate_owner:hunter22@db.example.com/keygate"}, "a password"),
        ("volume.size", "lots", "size"),
        ("fileSecrets", ["keygate"], "fileSecrets"),
    ],
)
def test_a_wrong_value_is_refused_and_named(path: str, value, said: str, tmp_path: pathlib.Path):
    error = refused(tmp_path, path, value)
    assert said in error
    assert "hunter22" not in error


def test_the_notes_say_how_to_make_a_key(tmp_path: pathlib.Path):
    ran = helm(tmp_path, NEEDED, "install", "fleet", "--dry-run=client", "--namespace", "models")
    assert ran.returncode == 0, ran.stderr
    notes = ran.stdout.split("NOTES:")[1]
    assert "kubectl --namespace models exec fleet-keygate-0 -- keygate keys create" in notes
    assert "http://fleet-keygate.models.svc:8080/v1" in notes
