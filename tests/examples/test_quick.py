"""The long examples run as they are, in short; each says what it found, and draws where it is asked to."""

from tests.depth import thorough
from tests.examples.program import output_of


def said_by(name, *options):
    return output_of(f"examples/{name}.py", "--quick", *options)


@thorough
def test_online_retail(tmp_path):
    said = said_by("online_retail", "--out", tmp_path / "a.png")
    assert "logistic regression" in said
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@thorough
def test_swiss_roll(tmp_path):
    said = said_by("swiss_roll", "--out", tmp_path / "a.png")
    slopes = {
        line.split("  ")[0].strip(): float(line.split()[-1 if line.startswith("penalty") else -2])
        for line in said.splitlines()
        if line.startswith(("c = ", "penalty"))
    }
    # 0.60, -0.45, -1.52 and -0.04, the same two digits on every vector width: all is float64 here.
    assert slopes["c = 0.1"] > 0.3  # explodes
    assert slopes["c = 0.001"] < slopes["c = 0.01"] < -0.3  # vanishes
    assert abs(slopes["penalty"]) < 0.1
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


@thorough
def test_quantised_digits(tmp_path):
    """With spikes and four levels, what is bounded keeps its accuracy, and what is not does not."""
    said = said_by("quantised_digits", "--spike", 8, "--out", tmp_path / "a.png")
    rows = {
        line.split()[0]: line.replace("+-", " ").split()
        for line in said.splitlines()
        if "+-" in line and "mean" not in line
    }
    exact, two_bits = ({name: float(row[i]) for name, row in rows.items()} for i in (1, -2))
    # 79 % exact; with two bits 77 % and 45 %. Vector widths differ by 1 of 540 pictures.
    assert min(exact.values()) > 70
    assert two_bits["PACT"] > exact["PACT"] - 5
    assert two_bits["ReLU"] < two_bits["PACT"] - 5
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
