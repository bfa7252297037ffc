"""Regions of AWS: which there are, and what to say of one that does not answer."""

from __future__ import annotations

import difflib

import boto3

ON_FROM_THE_START = (
    "ap-northeast-1", "ap-northeast-2", "ap-northeast-3", "ap-south-1", "ap-southeast-1", "ap-southeast-2",
    "ca-central-1", "eu-central-1", "eu-north-1", "eu-west-1", "eu-west-2", "eu-west-3", "sa-east-1", "us-east-1",
    "us-east-2", "us-west-1", "us-west-2",
)  # fmt: skip
"""Regions of the partition `aws` that no account has to enable. Those that came after March 2019 are all others."""
# Whose accounts have all of their regions.
_OTHER_PARTITIONS = ("cn-", "us-gov-", "us-iso", "eu-iso", "eusc-")
_HOW_TO_ENABLE = "https://docs.aws.amazon.com/accounts/latest/reference/manage-acct-regions.html"


def known() -> list[str]:
    """Regions with EKS, of all partitions, as far as this version of botocore knows them."""
    session = boto3.Session(region_name="us-east-1")
    partitions = session.get_available_partitions()
    return sorted({name for one in partitions for name in session.get_available_regions("eks", partition_name=one)})


def unknown(region: str) -> str | None:
    """What to say of a region that botocore does not know; None if it does."""
    names = known()
    if region in names:
        return None
    area = [name for name in names if name.rpartition("-")[0] == region.rpartition("-")[0]]
    near = area or difflib.get_close_matches(region, names, n=4, cutoff=0.0)
    return (
        f"REGION={region!r} is no region with EKS that this version of botocore knows; near it are {', '.join(near)}. "
        f"If it is newer: `.venv/bin/pip install --upgrade boto3`, and enable it in the account ({_HOW_TO_ENABLE})"
    )


def may_be_off(region: str) -> str | None:
    """What to say of a region that refuses a login, since an account has to enable it; None if all have it."""
    if region in ON_FROM_THE_START or region.startswith(_OTHER_PARTITIONS):
        return None
    return f"REGION={region!r} takes no login before the account has enabled it: see {_HOW_TO_ENABLE}"
