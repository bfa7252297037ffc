"""`make cost`: an estimate of what an idle hour and an hour of video cost, from the dated table infra/prices.yaml."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.table import Table

from infra.command import main
from infra.settings import BUS_NODES, InfraSettings
from infra.template import CLUSTER, Template
from steps.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

PRICES = Path(__file__).with_name("prices.yaml")
HOURS_PER_MONTH = 730
BUS_GIB = 30
"""Of the bus' three volumes."""
_TYPICAL = {"cpu": "c5.large", "gpu": "g6.xlarge"}


@dataclass(frozen=True)
class Estimate:
    """Dollars.

    Attributes:
        idle: of an hour by what costs, while nothing is analysed.
        node_hour: of an inference node.
        video_hour: of the inference nodes' time that an hour of video takes.
        node_hours: that time.
    """

    idle: dict[str, float]
    node_hour: float
    video_hour: float
    node_hours: float

    @property
    def idle_hour(self) -> float:
        """All of it."""
        return sum(self.idle.values())


def load_prices(path: Path = PRICES) -> dict[str, Any]:
    """The table."""
    table: dict[str, Any] = yaml.safe_load(path.read_text())
    return table


def estimate(settings: InfraSettings, prices: dict[str, Any]) -> Estimate:
    """What a cluster of these settings costs. Raises UsageError for an instance type without a price."""
    hour = prices["hour"]
    month = {name: dollars / HOURS_PER_MONTH for name, dollars in prices["month"].items()}
    volume_hour, monitoring = month["gp3_gib"], month["detailed_monitoring"]
    standard = _instance(prices, "NODE_INSTANCE_TYPE", settings.node_types)
    inference = _instance(prices, "INFERENCE_NODE_INSTANCE_TYPE", settings.inference_types)
    if settings.spot == "true":
        inference *= 1 - prices["spot_discount"]
    inference += settings.inference_node_volume_size * volume_hour + monitoring
    zones = len(settings.zones)
    if settings.network_egress == "nat":
        network, words = hour["nat_gateway"] + hour["public_ipv4"], "NAT gateway, with its address"
    else:
        endpoints = _count("AWS::EC2::VPCEndpoint", VpcEndpointType="Interface")
        network, words = zones * endpoints * hour["interface_endpoint"], f"{endpoints} endpoints in {zones} zones"
    node = standard + settings.node_volume_size * volume_hour + monitoring
    keys, alarms = _count("AWS::KMS::Key"), _count("AWS::CloudWatch::Alarm")
    dashboards = _count("AWS::CloudWatch::Dashboard")
    # The autoscaler takes no node that a replica of the bus would have to leave.
    nodes = max(settings.node_asg_min, BUS_NODES)
    idle = {
        "EKS control plane": hour["eks_control_plane"],
        words: network,
        f"{nodes} standard nodes, {settings.node_instance_type}": nodes * node,
        f"{settings.inference_node_asg_min} inference nodes, {settings.inference_type}": (
            settings.inference_node_asg_min * inference
        ),
        f"volumes of the bus, {BUS_GIB} GiB": BUS_GIB * volume_hour,
        f"key, {alarms} alarms, dashboard": (
            keys * month["kms_key"] + alarms * month["alarm"] + dashboards * month["dashboard"]
        ),
    }
    rate = settings.cost_node_fps or prices["node_frames_per_second"][settings.accelerator]
    node_hours = settings.cost_analysed_fps / rate
    return Estimate(idle, inference, node_hours * inference, node_hours)


def _count(kind: str, **properties: str) -> int:
    """How many resources of a type infra/cluster.yaml has, those of all its conditions."""
    resources = [item for item in Template(CLUSTER).resources.values() if item["Type"] == kind]
    return sum(properties.items() <= item.get("Properties", {}).items() for item in resources)


def _instance(prices: dict[str, Any], setting: str, names: list[str]) -> float:
    """The price of one type, and of several the highest, since any of them may be had."""
    known = prices["hour"]["instances"]
    for name in names:
        if name not in known:
            raise UsageError(
                f"{setting}={name!r} has no price in infra/prices.yaml, which has {', '.join(known)}; "
                "add it from https://aws.amazon.com/ec2/pricing/on-demand/"
            )
    return max(float(known[name]) for name in names)


def compared(settings: InfraSettings, prices: dict[str, Any]) -> dict[str, Estimate]:
    """Estimates by accelerator: that of the settings, and the other on its usual nodes."""
    found = {}
    for accelerator, usual in _TYPICAL.items():
        changes: dict[str, Any] = {}
        if accelerator != settings.accelerator:
            changes = {"accelerator": accelerator, "inference_node_instance_type": usual, "cost_node_fps": 0.0}
        found[f"{accelerator}"] = estimate(settings.model_copy(update=changes), prices)
    return found


def cost(settings: InfraSettings, console: Console) -> None:
    """The target."""
    prices = load_prices()
    chosen = estimate(settings, prices)
    idle = Table("idle, an hour", "dollars", box=None, pad_edge=False)
    idle.columns[1].justify = "right"
    for words, dollars in chosen.idle.items():
        idle.add_row(words, f"{dollars:.3f}")
    idle.add_row("in all", f"{chosen.idle_hour:.2f}")
    idle.add_row("a month of that", f"{chosen.idle_hour * HOURS_PER_MONTH:.0f}")
    console.print(idle)
    console.print()
    headings = ("", "nodes", "frames/s", "node hours", "dollars an hour of video", "an idle hour")
    video = Table(*headings, box=None, pad_edge=False)
    for accelerator, found in compared(settings, prices).items():
        kind = settings.inference_type if accelerator == settings.accelerator else _TYPICAL[accelerator]
        rate = settings.cost_analysed_fps / found.node_hours
        numbers = (f"{rate:g}", f"{found.node_hours:.3f}", f"{found.video_hour:.3f}", f"{found.idle_hour:.2f}")
        video.add_row(accelerator, kind, *numbers)
    console.print(video)
    console.print(
        f"\nOf a second of video {settings.cost_analysed_fps:g} frames are analysed (COST_ANALYSED_FPS). Where the "
        "frames/s of a node come from stands in\ninfra/prices.yaml: measure your own model, and set COST_NODE_FPS. "
        f"Prices are those of {prices['region']} of {prices['date']}, to be\n"
        "checked at https://aws.amazon.com/pricing. Requests, data (through NAT or endpoints, between zones, out of "
        "AWS), storage in S3 and\nECR, logs and the start of nodes are not in it."
    )
    if settings.region != prices["region"]:
        console.print(f"REGION is {settings.region}: its prices differ from those of {prices['region']}.")


if __name__ == "__main__":
    sys.exit(main("cost", cost))
