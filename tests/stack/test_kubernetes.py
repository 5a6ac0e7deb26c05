"""The Kubernetes manifests: valid for old and new clusters, restricted, and wired to each other."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from milena_cache.configuration.config import Config
from milena_cache.journal.lmdb_disk import MIN_MAP
from milena_common.network.addresses import Address
from tests.stack import environment
from tests.stack.files import K8S, MONITORING, ROOT, load_all_yaml, load_yaml

BASE = K8S / "base"
EXAMPLE = K8S / "overlays" / "example"
PRODUCTION = K8S / "overlays" / "production"
# Kinds that the cluster learns of from an operator have no schema here.
OPERATORS_OWN = {"Certificate", "Issuer", "PodMonitor", "PrometheusRule"}
VERSIONS = ("1.30", "1.37")

Resource = dict[str, Any]


def resources_of(folder: Path) -> list[Resource]:
    """The manifests that a kustomization lists, bases and components included, before it changes them."""
    found: list[Resource] = []
    kustomization = load_yaml(folder / "kustomization.yaml")
    for entry in kustomization.get("resources", []) + kustomization.get("components", []):
        path = (folder / entry).resolve()
        found += resources_of(path) if path.is_dir() else load_all_yaml(path)
    return found


def rendered(folder: Path) -> list[Resource]:
    """What would be applied."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    ran = subprocess.run([kubectl, "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return list(yaml.safe_load_all(ran.stdout))


def one(resources: list[Resource], kind: str, name: str) -> Resource:
    (found,) = (each for each in resources if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


def workload(name: str) -> Resource:
    return one(resources_of(BASE), "Deployment" if name == "milena-router" else "StatefulSet", name)


def pod(name: str) -> Resource:
    spec: Resource = workload(name)["spec"]["template"]["spec"]
    return spec


def container(name: str) -> Resource:
    (found,) = pod(name)["containers"]
    return dict(found)


def literals(folder: Path, name: str) -> dict[str, str]:
    """What a kustomization puts into a ConfigMap."""
    (generator,) = (
        each for each in load_yaml(folder / "kustomization.yaml")["configMapGenerator"] if each["name"] == name
    )
    return dict(literal.split("=", 1) for literal in generator["literals"])


def variables(name: str) -> dict[str, str]:
    """The environment of a container in the example, on a pod called `milena-cache-0` in namespace `milena`."""
    fields = {
        "metadata.name": "milena-cache-0",
        "metadata.namespace": "milena",
        "spec.nodeName": "machine-1",
        "status.podIP": "10.1.2.3",
    }
    own: dict[str, str] = {}
    for entry in container(name).get("env", ()):
        value = entry.get("value") or fields[entry["valueFrom"]["fieldRef"]["fieldPath"]]
        for earlier, text in own.items():
            value = value.replace(f"$({earlier})", text)
        own[entry["name"]] = value
    parts = {"POD_NAME", "POD_NAMESPACE", "POD_IP"}
    return literals(BASE, name) | literals(EXAMPLE, name) | {k: v for k, v in own.items() if k not in parts}


workloads = pytest.mark.parametrize("name", ["milena-router", "milena-cache"])


@pytest.mark.parametrize("version", VERSIONS)
def test_manifests_are_valid(version: str) -> None:
    for resource in resources_of(EXAMPLE) + resources_of(K8S / "components" / "etcd"):
        if resource["kind"] not in OPERATORS_OWN:
            kubernetes_validate.validate(resource, version, strict=True)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("folder", [K8S, BASE, EXAMPLE, PRODUCTION], ids=lambda folder: folder.name)
def test_what_would_be_applied_is_valid(folder: Path, version: str) -> None:
    for resource in rendered(folder):
        if resource["kind"] not in OPERATORS_OWN:
            kubernetes_validate.validate(resource, version, strict=True)


def test_the_example_changes_what_it_says() -> None:
    applied = rendered(EXAMPLE)
    assert {each["metadata"].get("namespace", "milena") for each in applied} == {"milena"}
    account = one(applied, "ServiceAccount", "milena-cache")
    assert "eks.amazonaws.com/role-arn" in account["metadata"]["annotations"]
    for kind, name in (("Deployment", "milena-router"), ("StatefulSet", "milena-cache")):
        (running,) = one(applied, kind, name)["spec"]["template"]["spec"]["containers"]
        assert running["image"].startswith("registry.example.com/milena:")
        generated = running["envFrom"][0]["configMapRef"]["name"]
        assert one(applied, "ConfigMap", generated)["data"] == literals(BASE, name) | literals(EXAMPLE, name)


def test_the_component_for_cert_manager_encrypts_everything(tmp_path: Path) -> None:
    """Of what is applied, the processes start, every port has TLS, and the files are those of cert-manager."""
    up = "../" * len(tmp_path.resolve().parts[1:])
    overlay = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [f"{up}{EXAMPLE.relative_to('/')}"],
        "components": [f"{up}{(K8S / 'components' / 'cert-manager').relative_to('/')}"],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    applied = rendered(tmp_path)
    for kind, name in (("Deployment", "milena-router"), ("StatefulSet", "milena-cache")):
        spec = one(applied, kind, name)["spec"]["template"]["spec"]
        (running,) = spec["containers"]
        certificate = one(applied, "Certificate", name)["spec"]
        own: dict[str, str] = {}
        for entry in running["env"]:
            value = entry.get("value", "10.1.2.3")
            for earlier, text in own.items():
                value = value.replace(f"$({earlier})", text)
            assert "$(" not in value
            own[entry["name"]] = value
        parts = {"POD_NAME", "POD_NAMESPACE", "POD_IP"}
        settings = literals(BASE, name) | literals(EXAMPLE, name) | {k: v for k, v in own.items() if k not in parts}
        loaded = environment.router(settings) if name == "milena-router" else environment.cache(settings)
        assert loaded.tls.files is not None
        assert (loaded.tls.mode, loaded.tls.files.client_auth) == ("on", "required")
        assert {"tls.crt", "tls.key", "ca.crt"} == {
            Path(own[variable]).name for variable in ("TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CA_FILE")
        }
        assert {"name": "tls", "secret": {"secretName": certificate["secretName"]}} in spec["volumes"]
        assert own["TLS_SERVER_NAME"] in certificate["dnsNames"]
        assert {"server auth", "client auth"} <= set(certificate["usages"])
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert running[probe]["httpGet"]["scheme"] == "HTTPS"
        if isinstance(loaded, Config):
            assert (loaded.resp, loaded.resp_tls) == (None, Address("10.1.2.3", 6379))
            assert loaded.routers_tls
        else:
            assert (loaded.resp, loaded.resp_tls) == (None, Address("0.0.0.0", 6379))


def test_the_folder_itself_can_be_applied() -> None:
    """`kubectl apply -k k8s/` has every variable that a node needs."""
    (settings,) = (
        each["data"]
        for each in rendered(K8S)
        if each["kind"] == "ConfigMap" and each["metadata"]["name"].startswith("milena-cache")
    )
    assert {"ROUTER_ADDR", "S3_BUCKET", "AWS_REGION"} <= settings.keys()


def test_the_image_is_of_this_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for folder in (K8S, BASE, EXAMPLE):
        (image,) = load_yaml(folder / "kustomization.yaml")["images"]
        assert (image["name"], image["newTag"]) == ("milena", version)


@workloads
def test_pods_keep_to_the_restricted_standard(name: str) -> None:
    security = pod(name)["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] == security["runAsGroup"] == 10001
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod(name))
    assert all(set(volume) == {"name", "secret"} for volume in pod(name).get("volumes", ()))


@workloads
def test_nothing_gets_a_token_for_the_kubernetes_api(name: str) -> None:
    assert pod(name)["serviceAccountName"] == name
    assert pod(name)["automountServiceAccountToken"] is False
    assert one(resources_of(BASE), "ServiceAccount", name)["automountServiceAccountToken"] is False


@workloads
def test_resources_are_bounded(name: str) -> None:
    resources = container(name)["resources"]
    assert resources["requests"]["cpu"]
    assert resources["requests"]["memory"] == resources["limits"]["memory"]


@workloads
def test_probes_request_the_right_pages(name: str) -> None:
    probes = {kind: container(name)[f"{kind}Probe"]["httpGet"] for kind in ("startup", "liveness", "readiness")}
    assert probes == {
        "startup": {"path": "/livez", "port": "metrics"},
        "liveness": {"path": "/livez", "port": "metrics"},
        "readiness": {"path": "/readyz", "port": "metrics"},
    }


@workloads
def test_a_stopping_process_gets_the_time_it_needs(name: str) -> None:
    drain = 0 if name == "milena-router" else environment.cache(variables(name)).drain
    assert pod(name)["terminationGracePeriodSeconds"] >= drain + 20


def test_a_node_s_journal_comes_back_with_its_name() -> None:
    spec = workload("milena-cache")["spec"]
    (claim,) = spec["volumeClaimTemplates"]
    (mount,) = (
        each for each in container("milena-cache")["volumeMounts"] if each["name"] == claim["metadata"]["name"]
    )
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]
    # The mount point belongs to root; a directory below it can be the process's own.
    assert Path(environment.cache(variables("milena-cache")).journal).parent == Path(mount["mountPath"])
    assert spec["persistentVolumeClaimRetentionPolicy"] == {"whenDeleted": "Retain", "whenScaled": "Retain"}
    assert spec["podManagementPolicy"] == "Parallel"


def test_a_node_can_write_to_its_volume_and_its_journal_is_not_readable_by_others() -> None:
    security = pod("milena-cache")["securityContext"]
    assert security["fsGroup"] == security["runAsGroup"]
    assert security["fsGroupChangePolicy"] == "OnRootMismatch"


def test_the_volume_has_room_for_the_journal_at_its_largest() -> None:
    (claim,) = workload("milena-cache")["spec"]["volumeClaimTemplates"]
    size = int(claim["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) * 2**30
    config = environment.cache(variables("milena-cache"))
    assert size > MIN_MAP + 3 * (config.dirty_max_bytes + config.dirty_copy_bytes)


def test_a_start_has_the_time_to_read_the_journal() -> None:
    probe = container("milena-cache")["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= 300


@workloads
def test_selectors_find_the_pods(name: str) -> None:
    labels = workload(name)["spec"]["template"]["metadata"]["labels"]
    assert workload(name)["spec"]["selector"]["matchLabels"].items() <= labels.items()
    assert one(resources_of(BASE), "Service", name)["spec"]["selector"].items() <= labels.items()
    policy = one(resources_of(BASE), "NetworkPolicy", name)
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


@workloads
def test_ports_are_the_same_everywhere(name: str) -> None:
    ports = {port["name"]: port["containerPort"] for port in container(name)["ports"]}
    config = environment.router(variables(name)) if name == "milena-router" else environment.cache(variables(name))
    assert config.listen.is_wildcard
    assert config.resp is not None
    if isinstance(config, Config):
        # Not every interface: the address where it listens is the one for others.
        assert config.resp.host == "10.1.2.3"
    else:
        assert config.resp.is_wildcard
        assert config.resp_advertise_host == name
    assert config.s3_endpoint is not None
    assert config.s3_endpoint.listen.is_wildcard
    assert ports == {
        "grpc": config.listen.port,
        "metrics": config.metrics.port,
        "redis": config.resp.port,
        "s3": config.s3_endpoint.listen.port,
    }
    assert Address(config.metrics.host, config.metrics.port).is_wildcard
    service = one(resources_of(BASE), "Service", name)
    assert {port["name"]: port["port"] for port in service["spec"]["ports"]} == ports
    assert all(port["targetPort"] == port["name"] for port in service["spec"]["ports"])
    for rule in one(resources_of(BASE), "NetworkPolicy", name)["spec"]["ingress"]:
        assert {port["port"] for port in rule["ports"]} <= set(ports)


def test_copies_are_kept_on_another_machine() -> None:
    """The zone is that of the machine, and not of the pod: two pods on one machine fail together."""
    variables_of_a_node = variables("milena-cache")
    assert variables_of_a_node["NODE_ZONE"] == "machine-1"


def test_a_node_is_called_by_its_own_stable_name() -> None:
    config = environment.cache(variables("milena-cache"))
    assert str(config.advertise) == "milena-cache-0.milena-cache.milena.svc:50051"
    service = one(resources_of(BASE), "Service", workload("milena-cache")["spec"]["serviceName"])
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["publishNotReadyAddresses"] is True


def test_clients_may_go_straight_to_the_nodes() -> None:
    assert environment.router(variables("milena-router")).direct_access
    rules = one(resources_of(BASE), "NetworkPolicy", "milena-cache")["spec"]["ingress"]
    (clients,) = (rule for rule in rules if "redis" in {port["port"] for port in rule["ports"]})
    labels = [source["podSelector"]["matchLabels"] for source in clients["from"]]
    assert labels == [
        {"app.kubernetes.io/name": "milena-router"},
        {"app.kubernetes.io/name": "milena-cache"},  # slots and copies move between nodes
        {"milena-client": "true"},
    ]


def test_access_keys_are_of_a_secret_that_is_not_needed_without_the_endpoint() -> None:
    endpoint = environment.cache(variables("milena-cache")).s3_endpoint
    assert endpoint is not None
    (mount,) = (each for each in container("milena-cache")["volumeMounts"] if each["name"] == "s3-access-keys")
    (volume,) = pod("milena-cache")["volumes"]
    assert volume["name"] == mount["name"]
    assert volume["secret"]["optional"] is True
    name, file = volume["secret"]["secretName"], Path(endpoint.keys_file)
    assert file.parent == Path(mount["mountPath"])
    # The Secret's key is the name of the file, as the instruction makes it.
    command = f"create secret generic {name} --from-file={file.name}"
    for folder in (K8S, BASE, EXAMPLE):
        assert command in (folder / "kustomization.yaml").read_text()
    rules = one(resources_of(BASE), "NetworkPolicy", "milena-cache")["spec"]["ingress"]
    (admitting,) = (rule for rule in rules if {"port": "s3"} in rule["ports"])
    assert "milena-client" in str(admitting["from"])


def test_nodes_find_the_router() -> None:
    config = environment.cache(variables("milena-cache"))
    service = one(resources_of(BASE), "Service", "milena-router")
    grpc = next(port["port"] for port in service["spec"]["ports"] if port["name"] == "grpc")
    assert config.routers == (Address(service["metadata"]["name"], grpc),)


def test_there_is_one_router_at_a_time() -> None:
    spec = workload("milena-router")["spec"]
    assert spec["replicas"] == 1
    assert spec["strategy"] == {"type": "Recreate"}


def test_three_routers_have_one_ring_in_an_etcd_of_three() -> None:
    applied = rendered(PRODUCTION)
    router = one(applied, "Deployment", "milena-router")["spec"]
    assert router["replicas"] == 3
    assert router["strategy"]["type"] == "RollingUpdate"
    (running,) = router["template"]["spec"]["containers"]
    settings = one(applied, "ConfigMap", running["envFrom"][0]["configMapRef"]["name"])["data"]
    etcd = environment.router(settings).etcd
    assert etcd is not None
    members = one(applied, "StatefulSet", "milena-etcd")["spec"]
    names = [f"milena-etcd-{number}.{members['serviceName']}" for number in range(members["replicas"])]
    assert [endpoint.host for endpoint in etcd.endpoints] == names
    (member,) = members["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in member["ports"]}
    assert {endpoint.port for endpoint in etcd.endpoints} == {ports["client"]}
    cluster = next(each for each in member["command"] if each.startswith("--initial-cluster="))
    assert [part.split("//")[1] for part in cluster.split(",")] == [f"{name}:{ports['peer']}" for name in names]
    for name in ("milena-router", "milena-etcd"):
        assert one(applied, "PodDisruptionBudget", name)["spec"]["maxUnavailable"] == 1


def test_etcd_admits_routers_and_itself_only_and_keeps_to_the_restricted_standard() -> None:
    resources = resources_of(K8S / "components" / "etcd")
    client, peer, _ = one(resources, "NetworkPolicy", "milena-etcd")["spec"]["ingress"]
    admitted = [
        source["podSelector"]["matchLabels"]["app.kubernetes.io/name"]
        for rule in (client, peer)
        for source in rule["from"]
    ]
    assert admitted == ["milena-router", "milena-etcd"]
    spec = one(resources, "StatefulSet", "milena-etcd")["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert not spec["automountServiceAccountToken"]
    (member,) = spec["containers"]
    assert not member["securityContext"]["allowPrivilegeEscalation"]
    assert member["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_nodes_are_drained_one_at_a_time() -> None:
    budget = one(resources_of(BASE), "PodDisruptionBudget", "milena-cache")["spec"]
    labels = workload("milena-cache")["spec"]["template"]["metadata"]["labels"]
    assert budget["maxUnavailable"] == 1
    assert budget["selector"]["matchLabels"].items() <= labels.items()


def test_the_pod_monitor_gives_the_jobs_the_names_that_rules_go_by() -> None:
    monitor = one(resources_of(EXAMPLE), "PodMonitor", "milena")["spec"]
    assert [endpoint["port"] for endpoint in monitor["podMetricsEndpoints"]] == ["metrics"]
    everywhere = load_yaml(BASE / "kustomization.yaml")["labels"][0]["pairs"]
    assert monitor["selector"]["matchLabels"] == everywhere
    for name in ("milena-router", "milena-cache"):
        assert workload(name)["spec"]["template"]["metadata"]["labels"][monitor["jobLabel"]] == name


def test_an_ipv6_pod_gets_the_same_manifests() -> None:
    given = variables("milena-cache") | {"RESP_ADDR": "fd00::12:6379"}
    assert environment.cache(given).resp == Address("fd00::12", 6379)


def test_the_router_is_not_kept_waiting_for_room_or_by_a_lost_machine() -> None:
    priority = one(resources_of(BASE), "PriorityClass", pod("milena-router")["priorityClassName"])
    assert priority["value"] > 0
    seconds = {each["key"]: each["tolerationSeconds"] for each in pod("milena-router")["tolerations"]}
    assert set(seconds) == {"node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"}
    assert max(seconds.values()) <= 30


@workloads
def test_a_process_counts_as_there_when_it_has_stayed_ready(name: str) -> None:
    assert workload(name)["spec"]["minReadySeconds"] > 0


def test_a_pod_that_is_not_ready_blocks_no_drain() -> None:
    budget = one(resources_of(BASE), "PodDisruptionBudget", "milena-cache")["spec"]
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_the_rules_and_dashboard_are_those_of_monitoring() -> None:
    ran = subprocess.run(
        [ROOT / "scripts" / "k8s-monitoring", "--check"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_the_prometheus_rule_has_every_rule() -> None:
    resource = load_yaml(K8S / "components" / "alerts" / "prometheus-rule.yaml")
    groups = [
        group
        for name in ("recording.yml", "alerts.yml")
        for group in load_yaml(MONITORING / "rules" / name)["groups"]
    ]
    assert resource["spec"]["groups"] == groups


def test_every_component_can_be_applied(tmp_path: Path) -> None:
    """Together, on the base, from an overlay of a user."""
    components = sorted(path.parent.name for path in (K8S / "components").glob("*/kustomization.yaml"))
    assert components == ["alerts", "cert-manager", "dashboard", "etcd", "pod-monitor", "static-keys", "users"]
    shutil.copytree(K8S, tmp_path / "k8s")
    overlay = tmp_path / "k8s" / "overlays" / "mine"
    overlay.mkdir()
    (overlay / "kustomization.yaml").write_text(
        yaml.safe_dump(
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "resources": ["../../base"],
                "components": [f"../../components/{name}" for name in components],
            }
        )
    )
    applied = rendered(overlay)
    dashboard = one(applied, "ConfigMap", "milena-dashboard")
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert dashboard["data"]["milena.json"] == (MONITORING / "grafana" / "dashboards" / "milena.json").read_text()
    (running,) = one(applied, "StatefulSet", "milena-cache")["spec"]["template"]["spec"]["containers"]
    assert {"secretRef": {"name": "milena-s3-keys"}} in running["envFrom"]
    assert any("configMapRef" in source for source in running["envFrom"])
    for version in VERSIONS:
        for resource in applied:
            if resource["kind"] not in OPERATORS_OWN:
                kubernetes_validate.validate(resource, version, strict=True)
