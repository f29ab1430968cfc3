"""Public keys of the signatures."""

from fastapi import APIRouter, Depends

from spacte_client.types import SigningKeyList
from spacte_service.auth import identify
from spacte_service.dependencies import TheSigner

from .descriptions import problems

router = APIRouter(
    prefix="/v1", tags=["signatures"], dependencies=[Depends(identify)], responses=problems(400, 401, 429)
)


@router.get("/signing-keys")
def list_signing_keys(signer: TheSigner) -> SigningKeyList:
    """The public keys of the service's signatures: those retired, and last the one that signs now."""
    return SigningKeyList(data=signer.public_keys())
