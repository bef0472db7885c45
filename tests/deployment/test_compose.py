"""deploy/fleet/compose.yaml: well-formed, pinned, without rights that are not needed, and at one with the configs beside it."""

import pathlib
import re
import tomllib

import yaml

FLEET = pathlib.Path(__file__).parents[2] / "deploy/fleet"
COMPOSE = yaml.safe_load((FLEET / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
GATEWAYS = {name: service for name, service in SERVICES.items() if name.startswith("gateway-")}
HAPROXY = (FLEET / "haproxy.cfg").read_text()
CONFIG = tomllib.loads((FLEET / "keygate.toml").read_text())


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(ms|s)", text).groups()
    return int(number) / (1000 if unit == "ms" else 1)


def address(service: dict) -> str:
    return service["networks"]["gateways"]["ipv4_address"]


def test_images_are_pinned_to_a_version():
    version = tomllib.loads((FLEET.parents[1] / "Cargo.toml").read_text())["package"]["version"]
    for name, service in SERVICES.items():
        tag = service["image"].partition(":")[2]
        assert re.match(r"\d+\.\d+(\.\d+)?(-\w+)?$", tag), f"{name}: {service['image']}"
        if name in GATEWAYS:
            assert service["image"] == f"keygate:{version}"


def test_services_have_no_right_that_they_do_not_need():
    for name, service in SERVICES.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"] and "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"].split(":")[0] not in ("0", "root"), name
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert "privileged" not in service and "pid" not in service, name
    # HAProxy alone is reached from outside; the database has no network.
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["haproxy"]
    assert SERVICES["haproxy"]["ports"] == ["8080:8080"]
    assert SERVICES["database"]["network_mode"] == "none"
    assert COMPOSE["networks"]["gateways"]["internal"] is True


def test_secrets_come_from_files_that_nobody_commits():
    for name, secret in COMPOSE["secrets"].items():
        assert secret == {"file": f"secrets/{name}"}
    used = {secret for service in SERVICES.values() for secret in service.get("secrets", [])}
    assert used == set(COMPOSE["secrets"])
    for ignored in [".gitignore", "deploy/Dockerfile.dockerignore"]:
        lines = (FLEET.parents[1] / ignored).read_text().splitlines()
        assert "deploy/fleet/secrets" in [line.strip("/") for line in lines], ignored
    for file in [CONFIG["database"]["password_file"], CONFIG["audit"]["key_file"]]:
        folder, name = file.rsplit("/", 1)
        assert folder == "/run/secrets" and all(name in gateway["secrets"] for gateway in GATEWAYS.values()), file
    text = (FLEET / "compose.yaml").read_text()
    for name in COMPOSE["secrets"]:
        assert f"> secrets/{name} " in text, f"nobody says how to make {name}"


def test_the_gateways_differ_in_name_address_and_volume_alone():
    assert len(GATEWAYS) == 3
    for name, gateway in GATEWAYS.items():
        assert gateway["hostname"] == name
        own = [volume for volume in gateway["volumes"] if volume.startswith(f"{name}:")]
        assert own == [f"{name}:/var/lib/keygate"] and name in COMPOSE["volumes"]
        rest = {key: value for key, value in gateway.items() if key not in ("hostname", "networks", "volumes")}
        first = GATEWAYS["gateway-1"]
        assert rest == {key: first[key] for key in rest}
    for path in [CONFIG["keys"]["file"], CONFIG["usage"]["spool"]]:
        assert path.startswith("/var/lib/keygate/"), f"{path} is lost when the container is made anew"
    # The image has an empty key file of this name, which is no copy.
    assert CONFIG["keys"]["file"] != "/var/lib/keygate/keys.jsonl"


def test_haproxy_knows_the_gateways_and_the_gateways_know_haproxy():
    servers = dict(re.findall(r"^    server (\S+) (\S+):8080$", HAPROXY, re.MULTILINE))
    assert servers == {name: address(gateway) for name, gateway in GATEWAYS.items()}
    assert CONFIG["client_address"] == {"from": "x-forwarded-for", "trusted_proxies": [address(SERVICES["haproxy"])]}
    assert CONFIG["public_health"] is True
    assert "http-check send meth GET uri /readyz" in HAPROXY


def test_a_gateway_takes_requests_until_haproxy_has_noticed_that_it_stops():
    checks = re.search(r"default-server check inter (\S+) fall (\d+) rise (\d+)", HAPROXY)
    timeout = re.search(r"^    timeout check (\S+)$", HAPROXY, re.MULTILINE)
    # Each check may begin just after the gateway said the last time that it is ready, and last as long as it may.
    notices = int(checks[2]) * (seconds(checks[1]) + seconds(timeout[1]))
    assert seconds(CONFIG["timeouts"]["drain_delay"]) > notices


def test_nothing_is_killed_before_its_requests_have_ended():
    defaults = tomllib.loads((FLEET.parent / "keygate.toml").read_text())["timeouts"]
    times = {name: seconds(value) for name, value in (defaults | CONFIG["timeouts"]).items()}
    for name, gateway in GATEWAYS.items():
        assert seconds(gateway["stop_grace_period"]) > times["drain"] + times["drain_delay"], name
    hard_stop = re.search(r"^    hard-stop-after (\S+)$", HAPROXY, re.MULTILINE)
    assert times["drain"] < seconds(hard_stop[1]) < seconds(SERVICES["haproxy"]["stop_grace_period"])
    for name in ["client", "server"]:
        timeout = re.search(rf"^    timeout {name} (\S+)$", HAPROXY, re.MULTILINE)
        assert seconds(timeout[1]) > max(times["upstream_first_byte"], times["stream_idle"])
