"""The wire schema: every field is documented, requests refuse what they do not know, answers keep it."""

from typing import Any, get_type_hints

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from spacte_client import CertifyOptions, JobOptions, PredictOptions, types

from .conftest import CERTIFICATE

MODELS = [value for value in vars(types).values() if isinstance(value, type) and issubclass(value, BaseModel)]


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_model_and_field_is_documented(model: type[BaseModel]) -> None:
    assert model.__doc__
    missing = [name for name, field in model.model_fields.items() if not field.description]
    assert not missing


def test_all_public_names_are_exported() -> None:
    public = {name for name, value in vars(types).items() if not name.startswith("_") and not _is_module(value)}
    assert public == set(types.__all__)


def _is_module(value: object) -> bool:
    return type(value).__name__ == "module"


@pytest.mark.parametrize(
    ("options", "params"),
    [(PredictOptions, types.PredictParams), (CertifyOptions, types.CertifyParams), (JobOptions, types.JobParams)],
)
def test_keyword_options_are_the_fields_of_the_wire(options: Any, params: type[BaseModel]) -> None:
    assert get_type_hints(options).keys() == params.model_fields.keys()


def test_a_request_refuses_an_unknown_field_and_an_answer_keeps_it() -> None:
    with pytest.raises(ValidationError):
        types.CertifyParams.model_validate({"nn": 1})
    certificate = types.Certificate.model_validate(CERTIFICATE | {"new_field": 1})
    assert certificate.model_dump()["new_field"] == 1


@pytest.mark.parametrize("name", ["target_radius", "tolerance"])
def test_a_radius_is_one_that_can_be_rounded_to_its_digits(name: str) -> None:
    assert types.CertifyParams.model_validate({name: 1e6})
    for beyond in (1e22, float("inf"), float("nan")):
        with pytest.raises(ValidationError):
            types.CertifyParams.model_validate({name: beyond})


def test_a_certificate_survives_the_wire() -> None:
    certificate = types.Certificate.model_validate(CERTIFICATE)
    assert types.Certificate.model_validate_json(certificate.model_dump_json()) == certificate


def test_a_job_takes_its_model_in_one_place() -> None:
    job = {"input": {"type": "dataset", "name": "digits"}}
    assert types.JobRequest.model_validate(job).params == types.JobParams()
    with pytest.raises(ValidationError, match="beside `params`"):
        types.JobRequest.model_validate(job | {"params": {"model": "digits"}})


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"type": "file", "file_id": "file_1"}, types.FileInput),
        ({"type": "uri", "uri": "s3://bucket/x.npz"}, types.UriInput),
        ({"type": "dataset", "name": "digits", "stride": 5}, types.DatasetInput),
    ],
)
def test_the_kinds_of_job_input_are_told_apart(document: dict[str, Any], kind: type[BaseModel]) -> None:
    assert isinstance(TypeAdapter(types.JobInput).validate_python(document), kind)


def test_a_record_is_a_certificate_or_an_error() -> None:
    record = TypeAdapter(types.JobRecord)
    good = record.validate_python(CERTIFICATE | {"outcome": "certified", "index": 4, "true_label": 7})
    assert isinstance(good, types.Certificate)
    assert good.index == 4
    bad = record.validate_python(
        {"outcome": "errored", "index": 5, "error": {"code": "bad_image", "detail": "Send a PNG."}}
    )
    assert isinstance(bad, types.ErrorRecord)


def test_a_job_has_ended_only_in_a_terminal_state() -> None:
    job = types.Job.model_validate(
        {
            "id": "job_1",
            "state": "interrupted",
            "counts": {"total": 10, "certified": 3, "abstained": 2, "errored": 1, "remaining": 4},
            "input": {"type": "dataset", "name": "digits"},
            "model": "digits",
            "params": {},
            "created_at": "2026-01-01T00:00:00Z",
            "results_url": "/v1/jobs/job_1/results",
        }
    )
    assert job.counts.done == 6
    assert not job.ended
    assert all(job.model_copy(update={"state": state}).ended for state in types.TERMINAL_STATES)
