"""What `spacte_client` exports, and what importing it must not import."""

import subprocess
import sys

import pytest

import spacte_client
from spacte_client import _exceptions

HEAVY = ("torch", "ray", "numpy", "fastapi", "scipy", "matplotlib", "PIL", "spacte_workers", "spacte_service")


def test_every_exported_name_is_there_and_documented() -> None:
    for name in spacte_client.__all__:
        assert getattr(spacte_client, name) is not None
    assert dir(spacte_client) == sorted(spacte_client.__all__)
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = spacte_client.nothing_like_it


def test_every_exception_is_exported_and_named_after_the_package() -> None:
    assert set(_exceptions.__all__) <= set(spacte_client.__all__)
    for name in _exceptions.__all__:
        kind = getattr(spacte_client, name)
        assert issubclass(kind, spacte_client.SpacteError)
        assert f"{kind.__module__}.{kind.__qualname__}" == f"spacte_client.{name}"
        assert f" {name} " in (_exceptions.__doc__ or "").replace("\n", " ")


def test_public_methods_of_the_twins_are_the_same() -> None:
    for blocking, awaited in (("_client", "_async_client"), ("_resources", "_async_resources")):
        ours = __import__(f"spacte_client.{blocking}", fromlist=["x"])
        theirs = __import__(f"spacte_client.{awaited}", fromlist=["x"])
        for name in ("Client", "Models", "Files", "Jobs"):
            if hasattr(ours, name) and hasattr(theirs, f"Async{name}"):
                public = {m for m in dir(getattr(ours, name)) if not m.startswith("_")}
                assert public == {m for m in dir(getattr(theirs, f"Async{name}")) if not m.startswith("_")}


def test_the_sdk_imports_nothing_heavy() -> None:
    program = (
        "import sys, spacte_client\n"
        "for name in spacte_client.__all__: getattr(spacte_client, name)\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
