"""What people get wrong in a TOML file, and the one line that answers it."""

import pytest

from tokenwatt.errors import UserError
from tokenwatt.spec import SuiteSpec, load_toml

GOOD = """
name = "s"
[[bench]]
engine = "fake"
workloads = ["chat"]
concurrency = [1]
"""


def load(tmp_path, text):
    path = tmp_path / "suite.toml"
    path.write_text(text, encoding="utf-8")
    return load_toml(path, SuiteSpec)


def test_defaults(tmp_path):
    (bench,) = load(tmp_path, GOOD).bench
    assert (bench.weights, bench.device, bench.concurrency) == ("random", "auto", (1,))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            GOOD + "windows_s = 3\n",
            "unknown key 'bench.0.windows_s'; allowed here: accuracy, budget_s, burstiness, closure, concurrency",
        ),
        (GOOD.replace("[1]", "[0]"), "bench.0.concurrency.0: input should be greater than 0, got 0"),
        (GOOD.replace("[1]", '["1"]'), "bench.0.concurrency.0: input should be a valid integer, got '1'"),
        (GOOD.replace("[1]", "[true]"), "bench.0.concurrency.0: input should be a valid integer, got True"),
        (GOOD + "window_s = -1.0\n", "bench.0.window_s: input should be greater than 0, got -1.0"),
        (GOOD + 'dtype = "int7"\n', "bench.0.dtype: input should be 'float32', 'bfloat16' or 'float16', got 'int7'"),
        (GOOD.replace('engine = "fake"\n', ""), "missing key 'bench.0.engine'"),
        ('name = "s"\nbench = []\n', "bench: tuple should have at least 1 item after validation, not 0, got ()"),
        ("name = ", "not valid TOML"),
    ],
)
def test_one_clear_line(tmp_path, text, message):
    with pytest.raises(UserError) as error:
        load(tmp_path, text)
    assert message in str(error.value)
    assert "suite.toml" in str(error.value)
    assert "\n" not in str(error.value)


def test_whole_numbers_are_fine_for_seconds(tmp_path):
    assert load(tmp_path, GOOD + "window_s = 3\n").bench[0].window_s == 3.0


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_toml(tmp_path / "absent.toml", SuiteSpec)
    with pytest.raises(UserError, match="cannot be read"):
        load_toml(tmp_path, SuiteSpec)
