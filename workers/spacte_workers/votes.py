"""How many votes a request asks for at most, and how many its answer took: for quotas, admission and budgets."""

from spacte_client.types import BracketParams, Certificate, CertifyParams, JobParams, PredictParams


def most_votes(params: PredictParams) -> int:
    """Votes that the samplers cast at most for one image; a noise on which two functions vote has two."""
    from spacte_workers.certification.attack import most_noises
    from spacte_workers.certification.carrying import reference_noises

    votes = params.n
    n_upper = params.n_upper if isinstance(params, BracketParams | JobParams) else None
    if isinstance(params, CertifyParams):
        votes += params.n0
        if params.certify is not None:
            votes += 2 * reference_noises(params.n)
    if n_upper is not None:
        votes += most_noises(n_upper)
    return votes


def votes_of(certificate: Certificate) -> int:
    """Votes that were cast for a certificate."""
    pairs = 0 if certificate.carried is None else certificate.carried.pairs
    return certificate.n0 + certificate.n + 2 * pairs
