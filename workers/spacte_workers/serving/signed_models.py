"""Whether a checkpoint folder is as its signer left it: OpenSSF's model-signing format, `model.sig` in the folder.

Sign a folder with `model_signing sign key FOLDER --signature FOLDER/model.sig --private_key KEY`, KEY being an elliptic
curve's.
"""

from pathlib import Path

from spacte_workers.errors import ModelLoadError

SIGNATURE = "model.sig"


def check_model_signature(folder: Path, public_key: Path) -> None:
    """See that every file of a checkpoint folder is one that was signed, and none is missing or new.

    Args:
        folder: the checkpoint, with its signature.
        public_key: the signer's, as PEM.

    Raises:
        ModelLoadError: the folder has no signature, or is not what was signed; one sentence.
    """
    try:
        from model_signing import hashing, verifying
    except ImportError:
        raise ModelLoadError("Signed models need model-signing: pip install 'spacte-service[model-signing]'.") from None
    signature = folder / SIGNATURE
    if not signature.is_file():
        raise ModelLoadError(f"{folder.name} has no {SIGNATURE}: sign it with `model_signing sign key`.")
    hashed = hashing.Config().set_ignored_paths(paths=[signature], ignore_git_paths=False)
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
        verifier.set_hashing_config(hashed).verify(folder, signature)
    except Exception as error:  # the library raises whatever its parts do
        why = str(error).partition(": Expected")[0].replace("['", "").replace("']", "").strip(".'\"[]")
        raise ModelLoadError(
            f"{folder.name} is not what was signed ({why or type(error).__name__}): put the signed files back."
        ) from error
