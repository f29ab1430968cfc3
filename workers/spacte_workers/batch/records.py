"""From a certificate, or from what was wrong with an image, to the line in the results log."""

from spacte_client.types import Certificate, CertificateRecord, ErrorRecord, JobError
from spacte_workers.errors import BadParameterError

from .results import Record


def certificate_record(index: int, true_label: int | None, custom_id: str | None, certificate: Certificate) -> Record:
    """The line of an image that has a certificate or an abstention."""
    record = CertificateRecord(
        **certificate.model_dump(),
        outcome="abstained" if certificate.abstained else "certified",
        index=index,
        custom_id=custom_id,
        true_label=true_label,
        correct=None if true_label is None else certificate.label == true_label,
    )
    return record.model_dump(mode="json")


def error_record(index: int, true_label: int | None, custom_id: str | None, error: Exception) -> Record:
    """The line of an image that cannot be certified; the error's message is one sentence for the caller."""
    code = "validation_failed" if isinstance(error, BadParameterError) else "bad_image"
    why = JobError(code=code, detail=str(error))
    record = ErrorRecord(index=index, custom_id=custom_id, true_label=true_label, error=why)
    return record.model_dump(mode="json")
