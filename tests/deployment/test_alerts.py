"""The rules for Prometheus are well-formed, and a document says what to do about each."""

import pathlib

import pytest
import yaml

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["alerts.yml", "fleet-alerts.yml"])
def test_each_alert_is_whole_and_explained(name: str):
    guide = (ROOT / "doc/operating.md").read_text() + (ROOT / "doc/fleet.md").read_text()
    groups = yaml.safe_load((ROOT / "deploy/prometheus" / name).read_text())["groups"]
    alerts = [rule for group in groups for rule in group["rules"]]
    assert len({alert["alert"] for alert in alerts}) == len(alerts) > 0
    for alert in alerts:
        name = alert["alert"]
        assert alert["expr"].strip() and alert["labels"]["severity"] in ("critical", "warning", "info"), name
        assert alert["annotations"]["summary"] and alert["annotations"]["description"], name
        assert name in guide, f"no document says what to do about {name}"
