"""Every Python example of the client's README runs as it stands, against the real gateway."""

import re
from pathlib import Path

import pytest
from PIL import Image

README = Path(__file__).parents[3] / "client" / "README.md"
EXAMPLES = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_runs(
    number: int, live_gateway: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SPACTE_BASE_URL", live_gateway)
    monkeypatch.chdir(tmp_path)
    Image.frombytes("L", (8, 8), bytes(range(0, 256, 4))).save("digit.png")
    exec(compile(EXAMPLES[number], f"example {number}", "exec"), {"__name__": "__main__"})
    assert capsys.readouterr().out


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 4
