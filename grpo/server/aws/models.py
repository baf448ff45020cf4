"""Bedrock's models: base models, the models that jobs made, their deployments, and tags.

docs.aws.amazon.com/bedrock/latest/APIReference.
"""

import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from grpo.server.aws import names
from grpo.server.aws.bedrock import Jobs, chosen, page, when
from grpo.server.aws.errors import AwsError, invalid
from grpo.server.aws.warming import Warming
from grpo.server.aws.wire import Call
from grpo.server.context import Server
from grpo.server.records import Deployment, Job, Model

Given = dict[str, Any]


SHARED = (
    "jobName",
    "jobArn",
    "baseModelArn",
    "customizationType",
    "trainingDataConfig",
    "validationDataConfig",
    "outputDataConfig",
    "customizationConfig",
    "hyperParameters",
)
"""Of a job and of the model that it made."""


class Models:
    """The models of one server."""

    def __init__(self, server: Server, jobs: Jobs) -> None:
        self.server, self.store, self.jobs = server, server.store, jobs
        self.warming = Warming(server.engines)

    def operations(self) -> Mapping[str, Callable[[Call], Given]]:
        """By their names in the service's model."""
        return {
            "ListFoundationModels": self.foundation_models,
            "GetFoundationModel": self.foundation_model,
            "ListCustomModels": self.custom_models,
            "GetCustomModel": self.custom_model,
            "DeleteCustomModel": self.delete_custom_model,
            "CreateCustomModelDeployment": self.deploy,
            "GetCustomModelDeployment": self.deployment,
            "ListCustomModelDeployments": self.deployments,
            "UpdateCustomModelDeployment": self.update_deployment,
            "DeleteCustomModelDeployment": self.delete_deployment,
            "TagResource": self.tag,
            "UntagResource": self.untag,
            "ListTagsForResource": self.tags,
        }

    def foundation_models(self, call: Call) -> Given:
        given = call.given
        found = [foundation(model, call.region) for model in sorted(self.server.catalogue.table)]
        provider, modality = given.get("byProvider", ""), given.get("byOutputModality", "TEXT")
        tuning, serving = given.get("byCustomizationType"), given.get("byInferenceType", "ON_DEMAND")
        listed = [one for one in found if provider.lower() in one["providerName"].lower()]
        other = modality != "TEXT" or serving != "ON_DEMAND" or tuning not in (None, "REINFORCEMENT_FINE_TUNING")
        return {"modelSummaries": [] if other else listed}

    def foundation_model(self, call: Call) -> Given:
        return {
            "modelDetails": foundation(
                self.jobs.intake.base_model(call.given["modelIdentifier"], "modelIdentifier"), call.region
            )
        }

    def custom_models(self, call: Call) -> Given:
        given = call.given
        described = [self._described(job, call.region) for job in self.jobs.newest() if self._there(job)]
        bases = {given[name] for name in ("baseModelArnEquals", "foundationModelArnEquals") if name in given}
        found = [
            {name: one[name] for name in ("modelArn", "modelName", "creationTime", "baseModelArn", "modelStatus")}
            | {"baseModelName": names.ends_of_base(one["baseModelArn"]), "customizationType": one["customizationType"]}
            | {"ownerAccountId": names.ACCOUNT}
            for one in described
            if not bases or {one["baseModelArn"]} == bases
        ]
        return page(
            [one for one in found if chosen(one, given, "modelName", "creationTime", "modelStatus")],
            given,
            "modelSummaries",
        )

    def custom_model(self, call: Call) -> Given:
        return self._described(self.made(call.given["modelIdentifier"]), call.region)

    def delete_custom_model(self, call: Call) -> Given:
        job = self.made(call.given["modelIdentifier"])
        if any(names.ends_with(one.model_arn) == names.short(job) for one in self.store.deployments.all()):
            raise AwsError("ConflictException", "a deployment needs this model")
        assert job.fine_tuned_model is not None
        self.store.models.delete(job.fine_tuned_model)
        return {}

    def made(self, identifier: str) -> Job:
        """The job that made a model, by the model's ARN or name. Raises AwsError."""
        end, told = names.ends_with(identifier), self.store.customizations.model_named(identifier)
        job = self.store.jobs.beginning(f"ftjob-{end}") if end else self.store.jobs.get(told.job_id) if told else None
        if job is None or not self._there(job):
            raise AwsError("ResourceNotFoundException", f"no custom model {identifier[:200]!r}", 404)
        return job

    def _there(self, job: Job) -> bool:
        return job.fine_tuned_model is not None and self.store.models.get(job.fine_tuned_model) is not None

    def _described(self, job: Job, region: str) -> Given:
        told = self.jobs.described(job, self.store.customizations.all().get(job.id), region)
        return {name: told[name] for name in SHARED} | {
            "modelArn": names.model_arn(job, region),
            "modelName": told["outputModelName"],
            "creationTime": told["endTime"],
            "trainingMetrics": told.get("trainingMetrics"),
            "modelStatus": "Active",
        }

    def deploy(self, call: Call) -> Given:
        given, now = call.given, int(time.time())
        self.made(given["modelArn"])
        new = Deployment(
            id=uuid.uuid4().hex[:12],
            name=given["modelDeploymentName"],
            model_arn=given["modelArn"],
            region=call.region,
            description=given.get("description"),
            created_at=now,
            updated_at=now,
        )
        arn = names.deployment_arn(new.id, call.region)
        if not self.store.deployments.add(new):
            there = self.deployment_of(new.name)
            if there.model_arn != new.model_arn or "clientRequestToken" not in given:
                raise AwsError("ConflictException", f"a deployment {new.name!r} is there already")
            arn = names.deployment_arn(there.id, there.region)
        else:
            self.warming.begin(new.id, *self.locate(new.model_arn))
        self.store.tags.put(arn, {tag["key"]: tag["value"] for tag in given.get("tags", [])})
        return {"customModelDeploymentArn": arn}

    def deployment(self, call: Call) -> Given:
        found = self.deployment_of(call.given["customModelDeploymentIdentifier"])
        status, failure = self.warming.status(found.id)
        return deployed(found, status, "modelDeploymentName") | ({"failureMessage": failure} if failure else {})

    def deployments(self, call: Call) -> Given:
        given = call.given
        found = [
            deployed(one, self.warming.status(one.id)[0], "customModelDeploymentName")
            for one in self.store.deployments.all()
        ]
        wanted = given.get("modelArnEquals")
        listed = [one for one in found if wanted in (None, one["modelArn"])]
        filters = {"createdAfter": "creationTimeAfter", "createdBefore": "creationTimeBefore"}
        asked = given | {ours: given[theirs] for theirs, ours in filters.items() if theirs in given}
        named = [one for one in listed if chosen(one, asked, "customModelDeploymentName", "createdAt", "status")]
        return page(named, given, "modelDeploymentSummaries")

    def update_deployment(self, call: Call) -> Given:
        found = self.deployment_of(call.given["customModelDeploymentIdentifier"])
        self.made(call.given["modelArn"])
        self.store.deployments.point(found.id, call.given["modelArn"], int(time.time()))
        self.warming.begin(found.id, *self.locate(call.given["modelArn"]))
        return {"customModelDeploymentArn": names.deployment_arn(found.id, found.region)}

    def delete_deployment(self, call: Call) -> Given:
        found = self.deployment_of(call.given["customModelDeploymentIdentifier"])
        self.store.deployments.delete(found.id)
        self.warming.forget(found.id)
        return {}

    def deployment_of(self, identifier: str) -> Deployment:
        """By ARN or name. Raises AwsError."""
        found = self.store.deployments.get(names.ends_with(identifier) or identifier)
        if found is None:
            raise AwsError("ResourceNotFoundException", f"no deployment {identifier[:200]!r}", 404)
        return found

    def locate(self, identifier: str) -> tuple[Path, list[str], Model | None]:
        """Directory and names of the base model, and the tuned model if it is one. Raises AwsError."""
        if ":custom-model-deployment/" in identifier:
            identifier = self.deployment_of(identifier).model_arn
        tuned = self.store.models.get(identifier)
        if ":custom-model/" in identifier:
            tuned = self.store.models.get(self.made(identifier).fine_tuned_model or "")
        catalogue = self.server.catalogue
        base = Path(tuned.base) if tuned else catalogue.find(self.jobs.intake.base_model(identifier, "modelId"))
        return base, catalogue.names(base) or [base.name], tuned

    def tag(self, call: Call) -> Given:
        self.store.tags.put(self._tagged(call), {tag["key"]: tag["value"] for tag in call.given["tags"]})
        return {}

    def untag(self, call: Call) -> Given:
        self.store.tags.remove(self._tagged(call), call.given["tagKeys"])
        return {}

    def tags(self, call: Call) -> Given:
        found = self.store.tags.of(self._tagged(call))
        return {"tags": [{"key": key, "value": value} for key, value in found.items()]}

    def _tagged(self, call: Call) -> str:
        """The ARN, of something that is there. Raises AwsError."""
        arn: str = call.given["resourceARN"]
        if ":custom-model-deployment/" in arn:
            self.deployment_of(arn)
        elif ":custom-model/" in arn or ":model-customization-job/" in arn:
            self.jobs.find(arn)
        else:
            raise invalid("resourceARN: only jobs, custom models and deployments have tags here")
        return arn


def foundation(model: str, region: str) -> Given:
    """A base model as Bedrock describes it."""
    name = names.in_arn(model)
    return {
        "modelArn": names.foundation_arn(model, region),
        "modelId": name,
        "modelName": name.partition(".")[2],
        "providerName": name.partition(".")[0],
        "inputModalities": ["TEXT"],
        "outputModalities": ["TEXT"],
        "responseStreamingSupported": True,
        "customizationsSupported": ["REINFORCEMENT_FINE_TUNING"],
        "inferenceTypesSupported": ["ON_DEMAND"],
        "modelLifecycle": {"status": "ACTIVE"},
    }


def deployed(found: Deployment, status: str, name: str) -> Given:
    """A deployment as Bedrock describes it; its name has one name in a list and another alone."""
    return {
        "customModelDeploymentArn": names.deployment_arn(found.id, found.region),
        name: found.name,
        "modelArn": found.model_arn,
        "createdAt": when(found.created_at),
        "lastUpdatedAt": when(found.updated_at),
        "status": status,
        "description": found.description,
    }
