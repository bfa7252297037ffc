"""Reelscan's workflow: the Hera definition, and the YAML that it renders.

::

    from workflows import WorkflowSettings, workflow_template

    template = workflow_template(WorkflowSettings(namespace="video", results="s3://bucket/prefix", ...))
"""

from workflows.definition import workflow_template
from workflows.loading import load_settings
from workflows.objects import objects
from workflows.settings import Resources, WorkflowSettings

__all__ = ["Resources", "WorkflowSettings", "load_settings", "objects", "workflow_template"]
